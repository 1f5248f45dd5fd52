"""Dilated MobileNets against timm's own feature extractors."""

import pytest
import timm
import torch

from finetune.models.dilate_mobilenet import can_dilate, dilate
from tests.models.sampling import slow_unless

NAMES = ["mobilenetv3_small_050", "tf_mobilenetv3_small_minimal_100", "mobilenetv4_conv_small_035", "fbnetv3_b"]
QUICK = [("mobilenetv3_small_050", 8), ("mobilenetv3_small_050", 16), ("mobilenetv4_conv_small_035", 16)]


@pytest.mark.parametrize(
    ("name", "output_stride"), slow_unless(QUICK, [(name, stride) for name in NAMES for stride in (8, 16)])
)
def test_a_dilated_mobilenet_equals_timms_features_only_model(name: str, output_stride: int) -> None:
    theirs = timm.create_model(name, features_only=True, output_stride=output_stride).eval().double()
    ours = timm.create_model(name).eval().double()
    ours.load_state_dict(theirs.state_dict(), strict=False)
    assert can_dilate(ours)
    dilate(ours, output_stride)
    assert [entry["reduction"] for entry in ours.feature_info] == theirs.feature_info.reduction()
    images = torch.randn(1, 3, 96, 64, dtype=torch.float64)
    with torch.no_grad():
        maps = ours.forward_intermediates(images, intermediates_only=True)
        for one, other in zip(maps, theirs(images), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)  # rounding depends on memory alignment


@pytest.mark.parametrize("name", ["mobilenetv4_hybrid_medium", "resnet10t"])
def test_other_models_cannot_be_dilated(name: str) -> None:
    with torch.device("meta"):
        assert not can_dilate(timm.create_model(name))
