"""The pyramid that heads expect, from any feature maps."""

import pytest
import torch

from finetune.builders.model import build_model
from finetune.config.errors import ConfigError
from finetune.models.feature_levels import feature_levels
from finetune.models.neck import PyramidNeck
from tests.samples import decided

CASES = {
    "convolutional": [2, 4, 8, 16, 32],
    "from stride 4": [4, 8, 16, 32],
    "flat": [16] * 8,
    "patches of 14": [14] * 4,
    "irregular": [7, 14, 28],
    "coarse": [16, 32, 64],
    "short": [4, 8, 16],
}


@pytest.mark.parametrize("resampling", ["interpolate", "learned"])
@pytest.mark.parametrize("strides", CASES.values(), ids=CASES.keys())
def test_every_level_has_its_size_and_channels(strides: list[int], resampling: str) -> None:
    levels = feature_levels([{"num_chs": 4 + i, "reduction": stride} for i, stride in enumerate(strides)])
    neck = PyramidNeck(3, levels, resampling)
    assert neck.strides == (1, 2, 4, 8, 16, 32)
    for height, width in ((64, 96), (32, 32)):
        maps = [
            torch.randn(2, level.channels, -(-height // level.native_stride), -(-width // level.native_stride))
            for level in levels
        ]
        pyramid = neck(torch.randn(2, 3, height, width), maps)
        sizes = [(2, c, height // s, width // s) for c, s in zip(neck.channels, neck.strides, strict=True)]
        assert [tuple(level.shape) for level in pyramid] == sizes
    assert neck.channels[0] == 3
    assert min(neck.channels[2:]) > 0


def test_maps_with_the_strides_of_their_levels_pass_unchanged_and_need_no_layers() -> None:
    levels = feature_levels([{"num_chs": 8, "reduction": stride} for stride in (4, 8, 16, 32)])
    neck = PyramidNeck(3, levels, "learned")
    maps = [torch.randn(1, 8, 64 // level.native_stride, 64 // level.native_stride) for level in levels]
    pyramid = neck(torch.randn(1, 3, 64, 64), maps)
    assert all(one is other for one, other in zip(pyramid[2:], maps, strict=True))
    assert not list(neck.parameters())


def test_dilated_maps_keep_their_stride() -> None:
    neck = PyramidNeck(3, feature_levels([{"num_chs": 8, "reduction": s} for s in (2, 4, 8, 16, 16)], 16))
    assert neck.strides == (1, 2, 4, 8, 16, 16)


def test_interpolation_keeps_a_ramp_a_ramp() -> None:
    neck = PyramidNeck(3, feature_levels([{"num_chs": 1, "reduction": 16}] * 4))
    ramp = torch.arange(8.0).view(1, 1, 1, 8).expand(1, 1, 8, 8)
    fine = neck(torch.zeros(1, 3, 128, 128), [ramp] * 4)[2]
    inside = fine[0, 0, 16, 2:-2]  # at a quarter of the stride, each step is a quarter
    assert torch.allclose(inside.diff(), torch.full_like(inside[1:], 0.25))
    assert (
        fine[0, 0, 0, 2] == 0.125
    )  # the center of the third fine pixel, an eighth of a coarse pixel after the first center


@pytest.mark.parametrize(("name", "head"), [("test_resnet", "fpn"), ("test_vit", "dpt")])
def test_a_learned_neck_without_layers_is_an_error_in_training(name: str, head: str) -> None:
    overrides = [
        "backbone=timm",
        f"backbone.name={name}",
        "backbone.weights=none",
        f"head={head}",
        "backbone.neck=learned",
    ]
    with pytest.raises(ConfigError, match=rf"backbone\.neck=learned has no effect: .*{name} that head={head} reads"):
        build_model(decided(overrides), ["a", "b"])
    assert len(build_model(decided([*overrides, "head=fpn", "backbone.name=test_vit"]), ["a", "b"]).neck.scalings)


def test_learned_layers_get_gradients() -> None:
    neck = PyramidNeck(3, feature_levels([{"num_chs": 4, "reduction": 16}] * 4), "learned")
    assert {name.partition(".")[2].partition(".")[0] for name, _ in neck.named_parameters()} == {"4", "8", "32"}
    pyramid = neck(torch.zeros(1, 3, 64, 64), [torch.randn(1, 4, 4, 4)] * 4)
    sum(level.square().sum() for level in pyramid).backward()
    assert all(parameter.grad is not None for parameter in neck.parameters())


def test_an_unknown_resampling_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"backbone\.neck=nearest: expected one of interpolate, learned"):
        PyramidNeck(3, feature_levels([{"num_chs": 4, "reduction": 16}] * 4), "nearest")
