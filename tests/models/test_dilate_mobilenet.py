"""Dilated MobileNets against timm's own feature extractors."""

import pytest
import timm
import torch

from finetune.models.dilate_mobilenet import can_dilate, dilate


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize(
    "name", ["mobilenetv3_small_050", "tf_mobilenetv3_small_minimal_100", "mobilenetv4_conv_small_035", "fbnetv3_b"]
)
def test_a_dilated_mobilenet_is_that_of_timms_features_only(name: str, output_stride: int) -> None:
    theirs = timm.create_model(name, features_only=True, output_stride=output_stride).eval().double()
    ours = timm.create_model(name).eval().double()
    ours.load_state_dict(theirs.state_dict(), strict=False)
    assert can_dilate(ours)
    dilate(ours, output_stride)
    assert [entry["reduction"] for entry in ours.feature_info] == theirs.feature_info.reduction()
    images = torch.randn(1, 3, 96, 64, dtype=torch.float64)
    with torch.no_grad():
        found = ours.forward_intermediates(images, intermediates_only=True)
        for one, other in zip(found, theirs(images), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)  # rounding depends on where tensors lie


@pytest.mark.parametrize("name", ["mobilenetv4_hybrid_medium", "resnet10t"])
def test_other_models_are_left_alone(name: str) -> None:
    assert not can_dilate(timm.create_model(name))
