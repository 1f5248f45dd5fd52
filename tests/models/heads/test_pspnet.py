"""PSPNet on maps that smp's decoder does not accept."""

import torch

from finetune.models.heads import PyramidSpec, levels_read
from tests.models.heads.pyramids import STRIDES, build, draw, logits


def test_channels_need_not_be_a_multiple_of_four() -> None:
    pyramid = PyramidSpec((3, 16, 38, 61, 128, 185), STRIDES)  # those of ReXNet
    for stride in (4, 8, 16, 32):
        parts = build("pspnet", pyramid, stride=stride)
        assert logits(parts, draw(pyramid, 64, 32)).shape == (1, 3, 64, 32)


def test_the_poolings_of_a_map_of_one_pixel_are_the_map() -> None:
    pyramid = PyramidSpec((3, 4, 4, 4, 4, 4), STRIDES)
    decoder, _ = build("pspnet", pyramid, stride=32, norm="identity")
    features = draw(pyramid, 32, 32)
    pixel = features[5]
    expected = decoder.conv(torch.cat([*(block.pool[1](pixel) for block in decoder.psp.blocks), pixel], dim=1))
    assert torch.allclose(decoder(features), expected, atol=1e-6)
    assert levels_read(decoder) == (5,)
