"""Backbones of many families against what timm itself says of them."""

from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from finetune.models import Backbone

TINY = "test_resnet.r160_in1k"

# the smallest of each family whose training step is quick on one core
FAMILIES = [
    "resnet10t",
    "resnext26ts",
    "tf_efficientnet_lite0",
    "test_efficientnet",
    "mobilenetv3_small_050",
    "mobilenetv4_conv_small_035",
    "test_convnext",
    "test_convnext2",
    "regnety_002",
    "densenet121",
    "vgg11_bn",
    "ghostnet_050",
    "hrnet_w18_small",
    "dla46_c",
    "mnasnet_small",
    "lcnet_035",
    "darknet17",
    "resnest14d",
    "test_byobnet",
    "test_nfnet",
    "inception_next_atto",
    "edgenext_xx_small",
    "pvt_v2_b0",
]
OPTIONS = {"vgg11_bn": {"mlp_ratio": 0.02}}  # or its classifier alone has 120M parameters


@pytest.mark.parametrize("name", FAMILIES)
def test_feature_maps_are_as_declared_and_only_unused_parameters_get_no_gradient(name: str) -> None:
    options = OPTIONS.get(name, {})
    backbone = Backbone(name, weights="none", options=options)
    features = backbone(torch.randn(2, 3, 64, 64))
    assert len(features) == len(backbone.channels) == len(backbone.strides) >= 3
    for feature, channels, stride in zip(features, backbone.channels, backbone.strides, strict=True):
        assert feature.shape == (2, channels, 64 // stride, 64 // stride)
    sum(feature.square().sum() for feature in features).backward()
    without = {key for key, parameter in backbone.named_parameters() if parameter.grad is None}
    assert without == backbone.unused_parameters()
    assert without  # every one of these has a classifier

    twin = timm.create_model(name, pretrained=False, **options)
    twin.load_state_dict(backbone.model.state_dict(), strict=True)


def test_enough_families_were_tried() -> None:
    modules = {timm.model_entrypoint(name).__module__ for name in FAMILIES}
    assert len(FAMILIES) == len(set(FAMILIES)) == 23
    assert len(modules) >= 16


@pytest.mark.parametrize("name", [TINY, "test_efficientnet", "dla46_c"])
def test_feature_maps_are_those_of_timms_features_only(name: str) -> None:
    backbone = Backbone(name, weights="none").eval()
    theirs = timm.create_model(name, pretrained=False, features_only=True).eval()
    kept = set(theirs.state_dict())
    theirs.load_state_dict({key: value for key, value in backbone.model.state_dict().items() if key in kept})
    images = torch.randn(1, 3, 64, 96)
    assert tuple(theirs.feature_info.reduction()) == backbone.strides
    for ours, expected in zip(backbone(images), theirs(images), strict=True):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("name", [TINY, "test_convnext", "mobilenetv3_small_050"])
@pytest.mark.parametrize("channels", [1, 4])
def test_other_numbers_of_channels_have_a_stem_and_a_normalisation_of_their_own(name: str, channels: int) -> None:
    backbone = Backbone(name, weights="none", in_channels=channels).eval()
    features = backbone(torch.randn(1, channels, 32, 32))
    assert [feature.shape[1] for feature in features] == list(backbone.channels)
    mean, std = backbone.normalization()
    assert len(mean) == len(std) == channels
    theirs = backbone.pretrained_cfg["mean"]
    assert mean == pytest.approx([sum(theirs) / 3] * channels)


@pytest.mark.parametrize("channels", [1, 2, 4, 5])
def test_a_pretrained_stem_is_adapted_as_timm_does(tmp_path: Path, channels: int) -> None:
    rgb = timm.create_model(TINY, pretrained=False)
    torch.save(rgb.state_dict(), tmp_path / "weights.pth")
    ours = Backbone(TINY, str(tmp_path / "weights.pth"), in_channels=channels).model.conv1[0].weight
    kernel = rgb.conv1[0].weight
    if channels == 1:
        assert torch.equal(ours, kernel.sum(dim=1, keepdim=True))
    repeated = torch.cat([kernel] * 2, dim=1)[:, :channels] * (3 / channels)
    assert torch.allclose(ours, repeated if channels > 1 else ours)
    cfg = {"state_dict": rgb.state_dict()}
    theirs = timm.create_model(TINY, pretrained=True, pretrained_cfg_overlay=cfg, in_chans=channels)
    assert torch.equal(ours, theirs.conv1[0].weight)


def test_a_grey_stem_sees_a_grey_picture_as_the_rgb_stem_did(tmp_path: Path) -> None:
    rgb = Backbone(TINY, weights="none").eval()
    torch.save(rgb.model.state_dict(), tmp_path / "weights.pth")
    grey = Backbone(TINY, str(tmp_path / "weights.pth"), in_channels=1).eval()
    picture = torch.randn(1, 1, 32, 32)
    for ours, expected in zip(grey(picture), rgb(picture.expand(-1, 3, -1, -1)), strict=True):
        assert torch.allclose(ours, expected, atol=1e-5)


def test_normalisation_is_what_the_weights_were_trained_with() -> None:
    assert Backbone("resnet10t", weights="none").normalization() == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert Backbone("tf_efficientnet_lite0", weights="none").normalization() == ([0.5] * 3, [0.5] * 3)


@pytest.mark.parametrize("name", ["test_vit", "vit_tiny_patch16_224"])
def test_a_vision_transformer_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(ValueError, match=rf"'{name}' gives feature maps of strides \[16\].*at least three"):
        Backbone(name, weights="none")


@pytest.mark.parametrize("name", ["test_maxvit", "test_coatnet", "legacy_xception", "mobilevitv2_050"])
def test_a_model_whose_maps_are_not_those_of_a_pyramid_at_every_size_is_refused_when_it_is_made(name: str) -> None:
    # two take one image size only; one does not pad, so 64 pixels become 29, not 32; one wants multiples of 64
    with pytest.raises(ValueError, match=rf"'{name}'"):
        Backbone(name, weights="none")


@pytest.mark.parametrize("option", ["pretrained", "checkpoint_path", "features_only", "in_chans"])
def test_options_that_others_decide_are_refused(option: str) -> None:
    with pytest.raises(ValueError, match=option):
        Backbone(TINY, weights="none", options={option: 1})


@pytest.mark.parametrize(
    ("typed", "meant"), [("resnt18", "resnet18"), ("convnext_tinny", "convnext_tiny"), ("resnet18.a1_in1", "resnet18")]
)
def test_a_misspelt_name_is_answered_with_the_nearest(typed: str, meant: str) -> None:
    with pytest.raises(ValueError, match=rf"unknown backbone '{typed}'.*Did you mean .*{meant}"):
        Backbone(typed, weights="none")


def test_a_name_like_no_other_is_answered_with_where_the_names_are() -> None:
    with pytest.raises(ValueError, match=r"unknown backbone 'qqqzzz'.*list_models\(\)"):
        Backbone("qqqzzz", weights="none")


@pytest.mark.parametrize("name", [TINY, "test_convnext", "test_efficientnet"])
def test_a_dilated_backbone_ends_at_stride_16_with_the_same_parameters(name: str) -> None:
    plain = Backbone(name, weights="none").eval()
    dilated = Backbone(name, weights="none", output_stride=16).eval()
    dilated.load_state_dict(plain.state_dict())
    images = torch.randn(1, 3, 64, 64)
    features = dilated(images)
    assert dilated.strides[-1] == 16
    assert [feature.shape[-1] for feature in features] == [64 // stride for stride in dilated.strides]
    assert features[-1].shape[1] == plain.channels[-1] == dilated.channels[-1]  # the deepest map, not the one before
    assert torch.equal(features[0], plain(images)[0])


def test_a_dilated_backbone_gives_every_used_parameter_a_gradient() -> None:
    backbone = Backbone(TINY, weights="none", output_stride=16)
    sum(feature.square().sum() for feature in backbone(torch.randn(2, 3, 64, 64))).backward()
    assert {key for key, p in backbone.named_parameters() if p.grad is None} == backbone.unused_parameters()


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "hrnet_w18_small", "ghostnet_050"])
def test_a_family_that_cannot_be_dilated_keeps_its_strides(name: str) -> None:
    assert Backbone(name, weights="none", output_stride=16).strides == (2, 4, 8, 16, 32)


def test_options_reach_timm() -> None:
    plain = Backbone("test_convnext", weights="none")
    dropping = Backbone("test_convnext", weights="none", options={"drop_path_rate": 0.5})

    def drop_paths(module: nn.Module) -> int:
        return sum(isinstance(part, timm.layers.DropPath) for part in module.modules())

    assert drop_paths(plain) == 0
    assert drop_paths(dropping) > 0


def test_asking_for_the_unused_parameters_leaves_the_model_as_it_is() -> None:
    backbone = Backbone(TINY, weights="none")
    before = {key: (id(value), value.clone()) for key, value in backbone.state_dict(keep_vars=True).items()}
    assert backbone.unused_parameters() == backbone.unused_parameters() == {"model.fc.weight", "model.fc.bias"}
    after = backbone.state_dict(keep_vars=True)
    assert list(after) == list(before)
    assert all(id(after[key]) == identity and torch.equal(after[key], old) for key, (identity, old) in before.items())


def test_weights_are_not_held_a_second_time(tmp_path: Path) -> None:
    torch.save(timm.create_model(TINY, pretrained=False).state_dict(), tmp_path / "weights.pth")
    backbone = Backbone(TINY, str(tmp_path / "weights.pth"))
    assert "state_dict" not in backbone.pretrained_cfg


def test_an_option_that_the_model_does_not_have_is_named() -> None:
    with pytest.raises(ValueError, match=r"backbone\.options.*bogus"):
        Backbone(TINY, weights="none", options={"bogus": 1})


@pytest.mark.parametrize("classes", [0, 10])
def test_a_file_with_another_classifier_or_none_loads_and_goes_back(classes: int, tmp_path: Path) -> None:
    theirs = timm.create_model(TINY, num_classes=classes)
    torch.save(theirs.state_dict(), tmp_path / "tuned.pth")
    backbone = Backbone(TINY, str(tmp_path / "tuned.pth"))
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(backbone.model.state_dict()[name], tensor)
    again = Backbone(TINY, weights="none", options=backbone.options)
    again.load_state_dict(backbone.state_dict())
    theirs.load_state_dict(again.model.state_dict())
