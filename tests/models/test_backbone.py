"""Backbones of many families against timm's own models and descriptions."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from finetune.models import Backbone, Segmenter, WeightsError
from finetune.models.feature_levels import feature_levels
from tests.models.sampling import slow_unless

TINY = "test_resnet.r160_in1k"

# the smallest of each family whose training step is fast on one core
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
QUICK_FAMILIES = ["test_efficientnet", "test_convnext", "test_byobnet", "test_nfnet", "vgg11_bn", "resnet10t"]
OPTIONS = {"vgg11_bn": {"mlp_ratio": 0.02}}  # or its classifier alone would have 120M parameters


@pytest.mark.parametrize("name", slow_unless(QUICK_FAMILIES, FAMILIES))
def test_feature_maps_are_as_declared_and_exactly_the_unused_parameters_get_no_gradient(name: str) -> None:
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


def test_the_sample_has_enough_families() -> None:
    modules = {timm.model_entrypoint(name).__module__ for name in FAMILIES}
    assert len(FAMILIES) == len(set(FAMILIES)) == 23
    assert len(modules) >= 16


@pytest.mark.parametrize("name", [TINY, "test_efficientnet", "dla46_c"])
def test_feature_maps_equal_those_of_timms_features_only_models(name: str) -> None:
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
def test_stem_and_normalization_follow_the_number_of_channels(name: str, channels: int) -> None:
    backbone = Backbone(name, weights="none", in_channels=channels).eval()
    features = backbone(torch.randn(1, channels, 32, 32))
    assert [feature.shape[1] for feature in features] == list(backbone.channels)
    mean, std = backbone.normalization()
    assert len(mean) == len(std) == channels
    theirs = backbone.pretrained_cfg["mean"]
    assert mean == pytest.approx([*theirs, sum(theirs) / 3] if channels == 4 else [sum(theirs) / 3])


@pytest.mark.parametrize("channels", [1, 2, 4, 5])
def test_a_pretrained_stem_is_adapted_like_timms(tmp_path: Path, channels: int) -> None:
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


@pytest.mark.parametrize("name", [TINY, "test_efficientnet", "test_convnext", "test_vit"])
@pytest.mark.parametrize("channels", slow_unless([1, 4], [1, 2, 3, 4, 5, 8, 13]))
def test_weights_of_three_channels_are_adapted_to_any_number_of_channels(
    name: str, channels: int, tmp_path: Path
) -> None:
    save_file(timm.create_model(name).state_dict(), tmp_path / "rgb.safetensors")
    model = Segmenter(name, "linear", 2, weights=str(tmp_path / "rgb.safetensors"), in_channels=channels)
    theirs = timm.create_model(
        name, pretrained=True, in_chans=channels, pretrained_cfg_overlay={"file": str(tmp_path / "rgb.safetensors")}
    )
    ours, expected = model.backbone.model.state_dict(), theirs.state_dict()
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[key], expected[key]) for key in ours)
    stem = next(weight for weight in theirs.parameters() if weight.dim() == 4)
    assert stem.shape[1] == channels
    images = torch.randint(0, 256, (2, channels, 64, 32), dtype=torch.uint8)
    logits = model(model.normalize(images))
    assert logits.shape == (2, 2, 64, 32)
    logits.square().mean().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_a_gray_stem_returns_the_features_of_the_rgb_stem_for_gray_images(tmp_path: Path) -> None:
    rgb = Backbone(TINY, weights="none").eval()
    torch.save(rgb.model.state_dict(), tmp_path / "weights.pth")
    gray = Backbone(TINY, str(tmp_path / "weights.pth"), in_channels=1).eval()
    image = torch.randn(1, 1, 32, 32)
    for ours, expected in zip(gray(image), rgb(image.expand(-1, 3, -1, -1)), strict=True):
        assert torch.allclose(ours, expected, atol=1e-5)


def test_normalization_is_that_of_the_weights() -> None:
    assert Backbone("resnet10t", weights="none").normalization() == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert Backbone("tf_efficientnet_lite0", weights="none").normalization() == ([0.5] * 3, [0.5] * 3)


# strides by name; of each way to accept images: any size, patches of 14, windows, a fixed size, blocks, without padding
TRANSFORMERS = {
    "test_vit": (16, 16, 16, 16),
    "vit_tiny_patch16_224": (16, 16, 16, 16),
    "eva02_tiny_patch14_224": (14, 14, 14, 14),
    "deit_tiny_distilled_patch16_224": (16, 16, 16, 16),
    "xcit_nano_12_p16_224": (16, 16, 16, 16),
    "cait_xxs24_224": (16, 16, 16, 16),
    "mixer_s32_224": (32, 32, 32, 32),
    "convmixer_768_32": (7, 7, 7, 7),
    "crossvit_tiny_240": (12, 12, 17, 17),
    "swin_tiny_patch4_window7_224": (4, 8, 16, 32),
    "mvitv2_tiny": (4, 8, 16, 32),
    "coat_lite_tiny": (4, 8, 16, 32),
    "test_maxvit": (2, 4, 8, 16, 32),
    "test_coatnet": (2, 4, 8, 16, 32),
    "halonet26t": (2, 4, 8, 16, 32),
    "legacy_xception": (2, 4, 8, 16, 32),
    "mobilevitv2_050": (2, 4, 8, 16, 32),
    "inception_v3": (2, 4, 8, 16, 32),
    "levit_128s": (16, 32, 64),
    "efficientvim_m1": (16, 32, 64),
    "pit_ti_224": (8, 16, 32),
    "sequencer2d_s": (7, 14, 14, 14),
}
ALLOWED = 0.3  # fraction by which the size of an irregular map may differ, plus one pixel


# per special case: branches, a fixed size, block attention, a minimum size, no timm order of layers, stride 64
QUICK_TRANSFORMERS = [
    *("test_vit", "test_maxvit", "pit_ti_224", "efficientvim_m1", "levit_128s"),
]


@pytest.mark.parametrize(
    ("name", "strides"), slow_unless([(n, TRANSFORMERS[n]) for n in QUICK_TRANSFORMERS], TRANSFORMERS.items())
)
def test_other_architectures_have_maps_of_about_their_strides_and_name_their_layers(
    name: str, strides: tuple[int, ...]
) -> None:
    backbone = Backbone(name, weights="none")
    assert backbone.strides == strides
    unused = backbone.unused_parameters()
    used = [key for key, _ in backbone.named_parameters() if key not in unused]
    for fine in (False, True):
        groups = backbone.layer_groups(fine)
        assert sorted(key for group in groups for key in group) == sorted(used)
        assert len(groups) >= 3
    timm.create_model(name, pretrained=False).load_state_dict(backbone.model.state_dict(), strict=True)
    with torch.no_grad():
        check_sizes(backbone, 96, 32)
    features = check_sizes(backbone, 32, 64)
    sum(feature.square().sum() for feature in features).backward()
    assert {key for key, parameter in backbone.named_parameters() if parameter.grad is None} == unused


def check_sizes(backbone: Backbone, height: int, width: int) -> list[torch.Tensor]:
    """Return the feature maps of random images, which have about the sizes of their strides."""
    resampled = backbone.input_size.fit(height, width)
    features = backbone(torch.randn(2, 3, height, width))
    for feature, channels, stride in zip(features, backbone.channels, backbone.strides, strict=True):
        assert feature.shape[:2] == (2, channels)
        for size, side in zip(feature.shape[2:], resampled, strict=True):
            assert abs(size - side / stride) <= 1 + ALLOWED * side / stride
    return features


ONE_MAP = [TINY, "hrnet_w18_small", "test_vit", "dla46_c", "coat_lite_tiny", "coat_tiny", "crossvit_tiny_240"]


@pytest.mark.parametrize("name", slow_unless([TINY, "test_vit", "dla46_c"], ONE_MAP))
@pytest.mark.parametrize("kept", [0, -1])
def test_layers_that_only_other_maps_depend_on_are_unused_after_one_map_is_selected(name: str, kept: int) -> None:
    backbone = Backbone(name, weights="none")
    unused_before = backbone.unused_parameters()
    images = torch.randn(2, 3, 64, 64)
    expected = backbone.eval()(images)[kept]
    backbone.select_features([backbone.indices[kept]])
    (feature,) = backbone(images)
    assert torch.equal(feature, expected)
    feature.square().sum().backward()
    without = {key for key, parameter in backbone.named_parameters() if parameter.grad is None}
    assert without == backbone.unused_parameters() >= unused_before


def test_the_pyramid_of_a_plain_transformer_ends_at_the_output_stride_of_the_head() -> None:
    backbone = Backbone("test_vit", weights="none", output_stride=16)
    assert [(level.stride, level.target_stride) for level in backbone.levels] == [(4, 4), (8, 8), (16, 16), (32, 16)]


@pytest.mark.parametrize("name", slow_unless(["test_maxvit"], ["test_maxvit", "pit_ti_224", "mixer_s32_224"]))
def test_a_fixed_size_backbone_is_built_for_the_given_size(name: str) -> None:
    backbone = Backbone(name, weights="none", image_size=(60, 96))
    assert backbone.input_size.only == (64, 96) == tuple(backbone.options["img_size"])
    for feature, stride in zip(backbone(torch.randn(1, 3, 64, 96)), backbone.strides, strict=True):
        assert abs(feature.shape[2] - 64 / stride) <= 1 + ALLOWED * 64 / stride
    again = Backbone(name, weights="none", options=backbone.options)
    again.load_state_dict(backbone.state_dict())


def test_images_of_other_sizes_are_resampled_for_a_fixed_size_backbone() -> None:
    backbone = Backbone("test_maxvit", weights="none", image_size=(96, 96)).eval()
    image = torch.randn(1, 3, 32, 64)
    larger = nn.functional.interpolate(image, (96, 96), mode="bilinear")
    for feature, expected in zip(backbone(image), backbone(larger), strict=True):
        assert torch.equal(feature, expected)


def test_pretrained_position_embeddings_are_resampled_like_timms(tmp_path: Path) -> None:
    theirs = timm.create_model("test_vit")
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    any_size = Backbone("test_vit", str(tmp_path / "weights.pth")).eval()
    resampled = timm.create_model(
        "test_vit",
        pretrained=True,
        img_size=(64, 96),
        pretrained_cfg_overlay={"state_dict": theirs.state_dict()},
    ).eval()
    image = torch.randn(1, 3, 64, 96)
    expected = resampled.forward_intermediates(
        image, indices=list(any_size.indices), norm=False, intermediates_only=True
    )
    for feature, other in zip(any_size(image), expected, strict=True):
        assert torch.allclose(feature, other, atol=1e-5)


@pytest.mark.parametrize("name", [TINY, "test_vit", "test_convnext"])
def test_grad_checkpointing_saves_memory_and_leaves_the_gradients_unchanged(name: str) -> None:
    plain = Backbone(name, weights="none")
    saving = Backbone(name, weights="none", grad_checkpointing=True)
    saving.load_state_dict(plain.state_dict())
    image, gradients = torch.randn(2, 3, 64, 64), []
    for backbone in (plain, saving):
        saved: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, saved=saved: saved.append(t.numel()) or t, lambda t: t):
            loss = sum(feature.square().mean() for feature in backbone(image))
        loss.backward()
        gradients.append((sum(saved), [p.grad for p in backbone.parameters()]))
    (memory, expected), (less_memory, recomputed) = gradients
    assert less_memory < 0.7 * memory
    for one, other in zip(expected, recomputed, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("name", [TINY, "test_efficientnet", "test_mambaout", "mobilenetv3_small_050"])
def test_grad_checkpointing_updates_running_statistics_once_per_batch(name: str) -> None:
    plain = Backbone(name, weights="none")
    made = Backbone(name, weights="none", grad_checkpointing=True)
    made.load_state_dict(plain.state_dict())
    saving = copy.deepcopy(made)
    for step in range(3):
        images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(step))
        for backbone in (plain, saving):
            sum(feature.square().mean() for feature in backbone.train()(images)).backward()
            with torch.no_grad():
                backbone.eval()(images)
    state = saving.state_dict()
    assert all(torch.equal(state[key], expected) for key, expected in plain.state_dict().items())
    for ours, expected in zip(saving(images), plain(images), strict=True):
        assert torch.equal(ours, expected)


def test_synchronized_batch_norms_update_their_statistics_once_per_batch_too() -> None:
    once = Backbone(TINY, weights="none", grad_checkpointing=True)
    converted = copy.deepcopy(once)
    for name, module in list(converted.named_modules()):
        if type(module) is nn.BatchNorm2d:  # as a conversion to synchronized norms does, which drops hooks
            norm = nn.BatchNorm2d(module.num_features)
            norm.load_state_dict(module.state_dict())
            converted.set_submodule(name, norm)
    images = torch.randn(2, 3, 64, 64)
    for backbone in (once, converted):
        sum(feature.square().mean() for feature in backbone(images)).backward()
    assert all(torch.equal(converted.state_dict()[key], expected) for key, expected in once.state_dict().items())
    norms = [module for module in converted.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {int(norm.num_batches_tracked) for norm in norms} == {1}
    assert {norm.momentum for norm in norms} == {0.1}


def test_a_model_without_grad_checkpointing_is_named_in_the_error() -> None:
    with pytest.raises(ValueError, match=r"'vgg11_bn' does not support.*backbone\.grad_checkpointing=false"):
        Backbone("vgg11_bn", weights="none", options=OPTIONS["vgg11_bn"], grad_checkpointing=True)


def test_maps_that_differ_from_their_declaration_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "finetune.models.backbone.feature_levels",
        lambda *args: [*feature_levels(*args)[1:], replace(feature_levels(*args)[0], native_stride=32)],
    )
    backbone = Backbone(TINY, weights="none")
    with pytest.raises(ValueError, match=r"stride of 32 implies .* No head fits it"):
        backbone(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match=r"stride of 32 implies .* No head fits it"):
        backbone.smoke_test()


def test_a_failing_smoke_test_reports_the_image_size() -> None:
    backbone = Backbone(TINY, weights="none")
    backbone.in_channels = 2
    with pytest.raises(ValueError, match=r"fails on an image of 64x96 pixels: .*channels"):
        backbone.smoke_test()
    assert backbone.training


SIDE_BRANCHES = ["coat_lite_tiny", "crossvit_tiny_240", "hrnet_w18_small", "efficientvim_m1"]


@pytest.mark.parametrize("name", slow_unless(["coat_lite_tiny"], SIDE_BRANCHES))
def test_searching_unused_side_branches_leaves_every_parameter_unchanged(name: str) -> None:
    backbone = Backbone(name, weights="none")
    before = {key: id(p) for key, p in backbone.named_parameters(remove_duplicate=False)}  # CoaT shares some
    features = backbone(torch.randn(2, 3, 64, 64))
    unused = backbone.unused_parameters()
    assert {key: id(p) for key, p in backbone.named_parameters(remove_duplicate=False)} == before
    sum(feature.square().sum() for feature in features).backward()
    assert {key for key, p in backbone.named_parameters() if p.grad is None} == unused


@pytest.mark.parametrize("name", slow_unless(["efficientvim_m1"], SIDE_BRANCHES[1:]))
def test_unused_side_branches_do_not_depend_on_what_is_frozen(name: str) -> None:
    backbone = Backbone(name, weights="none")
    unused = backbone.unused_parameters()
    backbone.requires_grad_(False)
    frozen = list(backbone.modules())[-1].eval()
    assert backbone.unused_parameters() == unused
    assert backbone.training
    assert not frozen.training


@pytest.mark.parametrize("name", slow_unless(["efficientvim_m1"], SIDE_BRANCHES[1:]))
def test_unused_side_branches_are_found_in_adapted_models(name: str) -> None:
    model = Segmenter(name, "linear", 3, weights="none", lora={"rank": 2})
    model(torch.randn(2, 3, 64, 64)).square().mean().backward()
    assert {key for key, parameter in model.named_parameters() if parameter.grad is None} == model.unused_parameters()


@pytest.mark.parametrize("option", ["pretrained", "checkpoint_path", "features_only", "in_chans"])
def test_reserved_options_are_rejected(option: str) -> None:
    with pytest.raises(ValueError, match=option):
        Backbone(TINY, weights="none", options={option: 1})


@pytest.mark.parametrize(
    ("typed", "meant"), [("resnt18", "resnet18"), ("convnext_tinny", "convnext_tiny"), ("resnet18.a1_in1", "resnet18")]
)
def test_the_error_for_a_misspelled_name_suggests_the_nearest_names(typed: str, meant: str) -> None:
    with pytest.raises(ValueError, match=rf"unknown backbone '{typed}'.*Did you mean .*{meant}"):
        Backbone(typed, weights="none")


def test_an_option_that_a_model_asserts_against_is_named() -> None:
    with pytest.raises(ValueError, match=r"cannot create backbone 'test_vit' with .*divisible by num_heads"):
        Backbone("test_vit", weights="none", options={"num_heads": 5})


@pytest.mark.parametrize(
    ("name", "options"),
    [("convnext_atto", {"depths": [2, 2, 6]}), ("test_vit", {"patch_size": 0}), ("test_vit", {"img_size": [320]})],
)
def test_an_option_that_a_model_stumbles_over_is_named(
    name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune.models.weights.hub_file", lambda name: None)  # timm would download them
    for weights in ("none", "pretrained"):
        with pytest.raises(ValueError, match=rf"cannot create backbone '{name}' with backbone.options="):
            Backbone(name, weights, options=options)


def test_the_error_for_an_unknown_name_tells_how_to_list_names() -> None:
    with pytest.raises(ValueError, match=r"unknown backbone 'qqqzzz'.*finetune list backbones"):
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


@pytest.mark.parametrize("name", ["hrnet_w18_small", "ghostnet_050", "mobilenetv4_hybrid_medium"])
def test_a_family_that_cannot_be_dilated_keeps_its_strides(name: str) -> None:
    with torch.device("meta"):
        assert Backbone(name, weights="none", output_stride=16).strides == (2, 4, 8, 16, 32)


def test_options_reach_timm() -> None:
    plain = Backbone("test_convnext", weights="none")
    dropping = Backbone("test_convnext", weights="none", options={"drop_path_rate": 0.5})

    def drop_paths(module: nn.Module) -> int:
        return sum(isinstance(part, timm.layers.DropPath) for part in module.modules())

    assert drop_paths(plain) == 0
    assert drop_paths(dropping) > 0


def test_searching_unused_parameters_leaves_the_model_unchanged() -> None:
    backbone = Backbone(TINY, weights="none")
    before = {key: (id(value), value.clone()) for key, value in backbone.state_dict(keep_vars=True).items()}
    assert backbone.unused_parameters() == backbone.unused_parameters() == {"model.fc.weight", "model.fc.bias"}
    after = backbone.state_dict(keep_vars=True)
    assert list(after) == list(before)
    assert all(id(after[key]) == identity and torch.equal(after[key], old) for key, (identity, old) in before.items())


def test_the_model_config_holds_no_copy_of_the_weights(tmp_path: Path) -> None:
    torch.save(timm.create_model(TINY, pretrained=False).state_dict(), tmp_path / "weights.pth")
    backbone = Backbone(TINY, str(tmp_path / "weights.pth"))
    assert "state_dict" not in backbone.pretrained_cfg


def test_an_unknown_option_is_named_in_the_error() -> None:
    with pytest.raises(ValueError, match=r"backbone\.options.*bogus"):
        Backbone(TINY, weights="none", options={"bogus": 1})


@pytest.mark.parametrize("classes", [0, 10])
def test_weights_with_another_classifier_or_none_can_be_loaded_and_saved(classes: int, tmp_path: Path) -> None:
    theirs = timm.create_model(TINY, num_classes=classes)
    torch.save(theirs.state_dict(), tmp_path / "tuned.pth")
    backbone = Backbone(TINY, str(tmp_path / "tuned.pth"))
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(backbone.model.state_dict()[name], tensor)
    again = Backbone(TINY, weights="none", options=backbone.options)
    again.load_state_dict(backbone.state_dict())
    theirs.load_state_dict(again.model.state_dict())


SWIN = {"embed_dim": 24, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8)}  # a seventieth of the smallest model


def train_one_step(backbone: Backbone) -> None:
    """Take one optimizer step, which changes every used parameter."""
    images = torch.randn(2, backbone.in_channels, 64, 64)
    sum(feature.square().mean() for feature in backbone(images)).backward()
    torch.optim.SGD(backbone.parameters(), lr=0.1).step()


SAVED_TO_TIMM = [
    (TINY, {}),
    ("test_efficientnet", {}),
    ("test_convnext", {}),
    ("hrnet_w18_small", {}),
    ("test_vit", {}),
    ("test_maxvit", {}),
    ("swin_tiny_patch4_window7_224", SWIN),
]


@pytest.mark.parametrize("channels", slow_unless([4], [3, 4]))
@pytest.mark.parametrize(("name", "options"), slow_unless([(TINY, {}), ("test_vit", {})], SAVED_TO_TIMM))
def test_trained_weights_give_timms_model_the_same_outputs(
    name: str, options: dict[str, Any], channels: int, tmp_path: Path
) -> None:
    backbone = Backbone(name, weights="none", in_channels=channels, options=options)
    before = {key: value.clone() for key, value in backbone.model.state_dict().items()}
    train_one_step(backbone)
    save_file(backbone.model.state_dict(), tmp_path / "tuned.safetensors")
    path = str(tmp_path / "tuned.safetensors")
    theirs = timm.create_model(name, in_chans=channels, checkpoint_path=path, **options).eval()  # strict
    images = torch.randn(1, channels, *theirs.pretrained_cfg["input_size"][1:])
    with torch.no_grad():
        assert torch.equal(theirs(images), backbone.model.eval()(images))
    assert sum(not torch.equal(before[key], value) for key, value in theirs.state_dict().items()) > len(before) / 2


@pytest.mark.parametrize(
    "name",
    slow_unless([TINY, "mobilenetv3_small_050"], [TINY, "test_efficientnet", "test_convnext", "mobilenetv3_small_050"]),
)
def test_weights_trained_with_dilation_fit_timms_dilated_and_undilated_models(name: str) -> None:
    dilated = Backbone(name, weights="none", in_channels=4, output_stride=8)
    assert dilated.strides[-1] == 8
    train_one_step(dilated)
    images = torch.randn(1, 4, 64, 96)
    plain = timm.create_model(name, in_chans=4).eval()
    plain.load_state_dict(dilated.model.state_dict(), strict=True)
    undilated = Backbone(name, weights="none", in_channels=4).eval()
    undilated.load_state_dict(dilated.state_dict())
    with torch.no_grad():
        assert torch.equal(plain(images), undilated.model(images))
        if name != "mobilenetv3_small_050":  # timm only dilates its feature extractor: see test_dilate_mobilenet.py
            theirs = timm.create_model(name, in_chans=4, output_stride=8).eval()
            theirs.load_state_dict(dilated.model.state_dict(), strict=True)
            assert torch.equal(theirs(images), dilated.model.eval()(images))


def test_weights_trained_with_four_channels_load_only_for_four_channels(tmp_path: Path) -> None:
    tuned = Backbone(TINY, weights="none", in_channels=4)
    train_one_step(tuned)
    save_file(tuned.model.state_dict(), tmp_path / "tuned.safetensors")
    again = Backbone(TINY, str(tmp_path / "tuned.safetensors"), in_channels=4)
    assert all(torch.equal(again.state_dict()[key], value) for key, value in tuned.state_dict().items())
    with pytest.raises(
        WeightsError, match=r"tuned\.safetensors' are for images of 4 channels\. Set backbone\.in_channels=4"
    ):
        Backbone(TINY, str(tmp_path / "tuned.safetensors"), in_channels=3)
