"""The linear probe against its formula."""

import torch
from torch.nn import functional as F

from tests.models.heads.pyramids import build, draw, logits, pyramid_for


def test_on_one_map_the_probe_is_batch_norm_a_1x1_convolution_and_upsampling() -> None:
    pyramid = pyramid_for("linear")
    parts = decoder, classifier = build("linear", pyramid, strides=[16])
    features = draw(pyramid, 64, 96)
    norm, convolution = decoder.norms[0], classifier[0]
    normed = F.batch_norm(features[4], norm.running_mean, norm.running_var, norm.weight, norm.bias)
    scores = torch.einsum("bchw,kc->bkhw", normed, convolution.weight[..., 0, 0]) + convolution.bias[:, None, None]
    expected = F.interpolate(scores, scale_factor=16, mode="bilinear", align_corners=False)
    assert torch.allclose(logits(parts, features), expected, atol=1e-5)


def test_the_probe_is_linear() -> None:
    pyramid = pyramid_for("linear")
    parts = build("linear", pyramid)
    first, second = draw(pyramid, 64, 64), draw(pyramid, 64, 64)
    middle = [(a + b) / 2 for a, b in zip(first, second, strict=True)]
    assert torch.allclose(logits(parts, middle), (logits(parts, first) + logits(parts, second)) / 2, atol=1e-5)
