"""The mask transformer."""

import torch

from tests.models.heads.pyramids import build, draw, logits, pyramid_for


def test_masks_are_cosines_between_pixels_and_classes() -> None:
    pyramid = pyramid_for("mask_transformer")
    decoder, classifier = build("mask_transformer", pyramid, classes=5)
    features = draw(pyramid, 64, 96)
    masks = decoder(features)
    assert masks.shape == (1, 5, 4, 6)
    assert masks.abs().max() <= 1 + 1e-6
    assert torch.allclose(classifier[0](masks), 10 * masks)  # its scale before training, and no bias


def test_the_logits_depend_on_the_position() -> None:
    pyramid = pyramid_for("mask_transformer")
    parts = build("mask_transformer", pyramid)
    features = [torch.ones_like(feature) for feature in draw(pyramid, 64, 64)]
    assert logits(parts, features)[0, 0].std() > 1e-4


def test_the_logits_of_two_classes_vary_in_size() -> None:
    pyramid = pyramid_for("mask_transformer")
    scores = logits(build("mask_transformer", pyramid, classes=2), draw(pyramid, 64, 96))
    difference = scores[:, 0] - scores[:, 1]
    assert difference.abs().std() > 0.1 * difference.abs().mean()
