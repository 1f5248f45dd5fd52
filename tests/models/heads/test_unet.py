"""Deep supervision of U-Net."""

import torch

from finetune.models.heads import levels_read
from tests.models.heads.pyramids import FROM_STRIDE_4, build, draw, pyramid_for


def test_deep_supervision_adds_logits_of_the_four_maps_before_the_last() -> None:
    pyramid = pyramid_for("unet", FROM_STRIDE_4)
    decoder, _ = build("unet", pyramid, deep_supervision=True, center=True)
    features = draw(pyramid, 64, 96, batch=2)
    x, auxiliary = decoder.forward_with_auxiliary(features)
    assert torch.equal(x, decoder(features))
    assert [logits.shape for logits in auxiliary] == [(2, 3, 64, 96)] * 4
    assert all(logits.std() > 0 for logits in auxiliary)


def test_the_first_auxiliary_logits_are_the_coarsest() -> None:
    pyramid = pyramid_for("unet")
    decoder, _ = build("unet", pyramid, deep_supervision=True)
    features = draw(pyramid, 64, 64)
    block = decoder.blocks[0]
    coarsest = decoder.classifiers[0](block(features[5], 4, 4, skip_connection=features[4]))
    expected = torch.nn.functional.interpolate(coarsest, (64, 64), mode="bilinear", align_corners=False)
    assert torch.equal(decoder.forward_with_auxiliary(features)[1][0], expected)


def test_without_deep_supervision_there_are_no_auxiliary_logits_and_no_further_parameters() -> None:
    pyramid = pyramid_for("unet")
    decoder, _ = build("unet", pyramid)
    assert decoder.forward_with_auxiliary(draw(pyramid, 32, 32))[1] == []
    assert not any(name.startswith("classifiers") for name in decoder.state_dict())
    assert levels_read(decoder) == (1, 2, 3, 4, 5)
