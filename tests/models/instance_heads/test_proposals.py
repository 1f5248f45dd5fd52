"""Anchors at the strides of maps."""

import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from finetune.models.instance_heads.proposals import Anchors

SIZES, RATIOS = (16, 32, 64), (0.25, 1.0, 4.0)


def test_anchors_are_those_of_torchvision_where_it_infers_the_strides_rightly_and_rounds_nothing() -> None:
    maps = [torch.zeros(1, 1, 64 // stride, 96 // stride) for stride in (4, 8, 32)]
    (expected,) = AnchorGenerator(tuple((size,) for size in SIZES), (RATIOS,) * 3)(
        ImageList(torch.zeros(1, 3, 64, 96), [(64, 96)]), maps
    )
    assert torch.equal(Anchors((4, 8, 32), SIZES, RATIOS)(maps), expected)


def test_anchors_follow_their_stride_where_the_size_of_a_map_was_rounded_up() -> None:
    """Two cells of stride 64 for 96 pixels, of which torchvision makes a stride of 48."""
    anchors = Anchors((64,), (10,), (1.0,))([torch.zeros(1, 1, 1, 2)])
    assert anchors.tolist() == [[-5, -5, 5, 5], [59, -5, 69, 5]]


def test_tiny_anchors_keep_their_area_and_ratio_in_float32() -> None:
    (anchor,) = Anchors((4,), (0.8,), (0.5,))([torch.zeros(1, 1, 1, 1, dtype=torch.bfloat16)])
    width, height = (anchor[2:] - anchor[:2]).tolist()
    assert width * height == pytest.approx(0.64)
    assert height / width == pytest.approx(0.5)
