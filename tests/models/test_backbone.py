"""Backbones of many families against what timm itself says of them."""

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
def test_other_numbers_of_channels_have_a_stem_and_a_normalization_of_their_own(name: str, channels: int) -> None:
    backbone = Backbone(name, weights="none", in_channels=channels).eval()
    features = backbone(torch.randn(1, channels, 32, 32))
    assert [feature.shape[1] for feature in features] == list(backbone.channels)
    mean, std = backbone.normalization()
    assert len(mean) == len(std) == channels
    theirs = backbone.pretrained_cfg["mean"]
    assert mean == pytest.approx([*theirs, sum(theirs) / 3] if channels == 4 else [sum(theirs) / 3])


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


@pytest.mark.parametrize("name", [TINY, "test_efficientnet", "test_convnext", "test_vit"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 8, 13])
def test_any_number_of_channels_begins_with_what_timm_makes_of_three(name: str, channels: int, tmp_path: Path) -> None:
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


def test_a_gray_stem_sees_a_gray_picture_as_the_rgb_stem_did(tmp_path: Path) -> None:
    rgb = Backbone(TINY, weights="none").eval()
    torch.save(rgb.model.state_dict(), tmp_path / "weights.pth")
    gray = Backbone(TINY, str(tmp_path / "weights.pth"), in_channels=1).eval()
    picture = torch.randn(1, 1, 32, 32)
    for ours, expected in zip(gray(picture), rgb(picture.expand(-1, 3, -1, -1)), strict=True):
        assert torch.allclose(ours, expected, atol=1e-5)


def test_normalization_is_what_the_weights_were_trained_with() -> None:
    assert Backbone("resnet10t", weights="none").normalization() == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert Backbone("tf_efficientnet_lite0", weights="none").normalization() == ([0.5] * 3, [0.5] * 3)


# of each way to take images: any size, patches that do not divide 32, windows, one size alone, blocks, without padding
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
ALLOWED = 0.3  # by which an irregular map may be larger or smaller, and a pixel


@pytest.mark.parametrize(("name", "strides"), TRANSFORMERS.items())
def test_models_of_other_kinds_give_maps_of_about_their_strides_at_every_size(
    name: str, strides: tuple[int, ...]
) -> None:
    backbone = Backbone(name, weights="none")
    assert backbone.strides == strides
    for height, width in ((32, 64), (96, 32)):
        taken = backbone.input_size.fit(height, width)
        features = backbone(torch.randn(2, 3, height, width))
        for feature, channels, stride in zip(features, backbone.channels, strides, strict=True):
            assert feature.shape[:2] == (2, channels)
            for found, side in zip(feature.shape[2:], taken, strict=True):
                assert abs(found - side / stride) <= 1 + ALLOWED * side / stride


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_their_unused_parameters_are_those_without_a_gradient_and_their_layers_are_in_groups(name: str) -> None:
    backbone = Backbone(name, weights="none")
    unused = backbone.unused_parameters()
    sum(feature.square().sum() for feature in backbone(torch.randn(2, 3, 32, 64))).backward()
    assert {key for key, parameter in backbone.named_parameters() if parameter.grad is None} == unused
    used = [key for key, _ in backbone.named_parameters() if key not in unused]
    for fine in (False, True):
        groups = backbone.layer_groups(fine)
        assert sorted(key for group in groups for key in group) == sorted(used)
        assert len(groups) >= 3
    timm.create_model(name, pretrained=False).load_state_dict(backbone.model.state_dict(), strict=True)


@pytest.mark.parametrize(
    "name", [TINY, "hrnet_w18_small", "test_vit", "dla46_c", "coat_lite_tiny", "coat_tiny", "crossvit_tiny_240"]
)
@pytest.mark.parametrize("kept", [0, -1])
def test_layers_that_only_other_maps_depend_on_are_unused_once_a_map_alone_is_kept(name: str, kept: int) -> None:
    backbone = Backbone(name, weights="none")
    whole = backbone.unused_parameters()
    images = torch.randn(2, 3, 64, 64)
    expected = backbone.eval()(images)[kept]
    backbone.select_features([backbone.indices[kept]])
    (feature,) = backbone(images)
    assert torch.equal(feature, expected)
    feature.square().sum().backward()
    without = {key for key, parameter in backbone.named_parameters() if parameter.grad is None}
    assert without == backbone.unused_parameters() >= whole


def test_a_plain_transformer_follows_the_stride_that_a_head_is_made_for() -> None:
    backbone = Backbone("test_vit", weights="none", output_stride=16)
    assert [(level.stride, level.target_stride) for level in backbone.levels] == [(4, 4), (8, 8), (16, 16), (32, 16)]


@pytest.mark.parametrize("name", ["test_maxvit", "pit_ti_224", "mixer_s32_224"])
def test_a_backbone_of_one_size_alone_is_built_for_the_size_that_is_asked_for(name: str) -> None:
    backbone = Backbone(name, weights="none", image_size=(60, 96))
    assert backbone.input_size.only == (64, 96) == tuple(backbone.options["img_size"])
    for feature, stride in zip(backbone(torch.randn(1, 3, 64, 96)), backbone.strides, strict=True):
        assert abs(feature.shape[2] - 64 / stride) <= 1 + ALLOWED * 64 / stride
    again = Backbone(name, weights="none", options=backbone.options)
    again.load_state_dict(backbone.state_dict())


def test_an_image_of_another_size_is_resampled_to_the_one_that_a_backbone_takes() -> None:
    backbone = Backbone("mixer_s32_224", weights="none").eval()
    image = torch.randn(1, 3, 64, 96)
    larger = nn.functional.interpolate(image, (224, 224), mode="bilinear")
    for feature, expected in zip(backbone(image), backbone(larger), strict=True):
        assert torch.equal(feature, expected)


def test_position_embeddings_of_pretrained_weights_are_resampled_as_timm_does(tmp_path: Path) -> None:
    theirs = timm.create_model("vit_tiny_patch16_224")
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    any_size = Backbone("vit_tiny_patch16_224", str(tmp_path / "weights.pth")).eval()
    resampled = timm.create_model(
        "vit_tiny_patch16_224",
        pretrained=True,
        img_size=(64, 96),
        pretrained_cfg_overlay={"state_dict": theirs.state_dict()},
    ).eval()
    image = torch.randn(1, 3, 64, 96)
    expected = resampled.forward_intermediates(image, indices=[2, 5, 8, 11], norm=False, intermediates_only=True)
    for feature, other in zip(any_size(image), expected, strict=True):
        assert torch.allclose(feature, other, atol=1e-5)


@pytest.mark.parametrize("name", [TINY, "test_vit", "test_convnext"])
def test_checkpointing_changes_the_memory_and_not_the_gradients(name: str) -> None:
    plain = Backbone(name, weights="none")
    saving = Backbone(name, weights="none", grad_checkpointing=True)
    saving.load_state_dict(plain.state_dict())
    image, gradients = torch.randn(2, 3, 64, 64), []
    for backbone in (plain, saving):
        kept: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t.numel()) or t, lambda t: t):
            loss = sum(feature.square().mean() for feature in backbone(image))
        loss.backward()
        gradients.append((sum(kept), [p.grad for p in backbone.parameters()]))
    (memory, expected), (less, found) = gradients
    assert less < 0.7 * memory
    for one, other in zip(expected, found, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("name", [TINY, "test_efficientnet", "test_mambaout", "mobilenetv3_small_050"])
def test_checkpointing_takes_up_the_statistics_of_each_batch_once(name: str) -> None:
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
    found = saving.state_dict()
    assert all(torch.equal(found[key], expected) for key, expected in plain.state_dict().items())
    for ours, expected in zip(saving(images), plain(images), strict=True):
        assert torch.equal(ours, expected)


def test_a_model_that_cannot_compute_its_activations_anew_is_named() -> None:
    with pytest.raises(ValueError, match=r"'vgg11_bn' cannot compute.*backbone\.grad_checkpointing=false"):
        Backbone("vgg11_bn", weights="none", options=OPTIONS["vgg11_bn"], grad_checkpointing=True)


def test_a_model_of_maps_that_are_not_what_it_says_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "finetune.models.backbone.feature_levels",
        lambda *asked: [*feature_levels(*asked)[1:], replace(feature_levels(*asked)[0], native_stride=32)],
    )
    backbone = Backbone(TINY, weights="none")
    with pytest.raises(ValueError, match=r"promises 32 and .*; no head fits that"):
        backbone(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match=r"promises 32 and .*; no head fits that"):
        backbone.smoke_test()


def test_a_picture_that_fails_is_said_with_its_size() -> None:
    backbone = Backbone(TINY, weights="none")
    backbone.in_channels = 2
    with pytest.raises(ValueError, match=r"fails with a picture of 64x96 pixels: .*channels"):
        backbone.smoke_test()
    assert Backbone(TINY, weights="none").training


@pytest.mark.parametrize("name", ["coat_lite_tiny", "crossvit_tiny_240", "hrnet_w18_small", "efficientvim_m1"])
def test_asking_what_lies_beside_the_maps_leaves_every_parameter_as_it_is(name: str) -> None:
    backbone = Backbone(name, weights="none")
    before = {key: id(p) for key, p in backbone.named_parameters(remove_duplicate=False)}  # CoaT shares some
    features = backbone(torch.randn(2, 3, 64, 64))
    unused = backbone.unused_parameters()
    assert {key: id(p) for key, p in backbone.named_parameters(remove_duplicate=False)} == before
    sum(feature.square().sum() for feature in features).backward()
    assert {key for key, p in backbone.named_parameters() if p.grad is None} == unused


@pytest.mark.parametrize("name", ["crossvit_tiny_240", "hrnet_w18_small", "efficientvim_m1"])
def test_what_lies_beside_the_maps_is_the_same_however_much_is_frozen(name: str) -> None:
    backbone = Backbone(name, weights="none")
    unused = backbone.unused_parameters()
    backbone.requires_grad_(False)
    resting = list(backbone.modules())[-1].eval()
    assert backbone.unused_parameters() == unused
    assert backbone.training
    assert not resting.training


@pytest.mark.parametrize("name", ["crossvit_tiny_240", "hrnet_w18_small", "efficientvim_m1"])
def test_what_lies_beside_the_maps_is_known_with_adapters_too(name: str) -> None:
    model = Segmenter(name, "linear", 3, weights="none", lora={"rank": 2})
    model(torch.randn(2, 3, 64, 64)).square().mean().backward()
    assert {key for key, parameter in model.named_parameters() if parameter.grad is None} == model.unused_parameters()


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


@pytest.mark.parametrize("name", ["hrnet_w18_small", "ghostnet_050", "mobilenetv4_hybrid_medium"])
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


SWIN = {"embed_dim": 24, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8)}  # a seventieth of the smallest


def learn(backbone: Backbone) -> None:
    """One step, with which every used parameter moves."""
    images = torch.randn(2, backbone.in_channels, 64, 64)
    sum(feature.square().mean() for feature in backbone(images)).backward()
    torch.optim.SGD(backbone.parameters(), lr=0.1).step()


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        (TINY, {}),
        ("test_efficientnet", {}),
        ("test_convnext", {}),
        ("hrnet_w18_small", {}),
        ("test_vit", {}),
        ("test_maxvit", {}),
        ("swin_tiny_patch4_window7_224", SWIN),
    ],
)
def test_what_has_learned_goes_back_into_timm_with_the_same_outputs(
    name: str, options: dict[str, Any], channels: int, tmp_path: Path
) -> None:
    backbone = Backbone(name, weights="none", in_channels=channels, options=options)
    before = {key: value.clone() for key, value in backbone.model.state_dict().items()}
    learn(backbone)
    save_file(backbone.model.state_dict(), tmp_path / "tuned.safetensors")
    path = str(tmp_path / "tuned.safetensors")
    theirs = timm.create_model(name, in_chans=channels, checkpoint_path=path, **options).eval()  # strict
    images = torch.randn(1, channels, *theirs.pretrained_cfg["input_size"][1:])
    with torch.no_grad():
        assert torch.equal(theirs(images), backbone.model.eval()(images))
    assert sum(not torch.equal(before[key], value) for key, value in theirs.state_dict().items()) > len(before) / 2


@pytest.mark.parametrize("name", [TINY, "test_efficientnet", "test_convnext", "mobilenetv3_small_050"])
def test_what_has_learned_dilated_goes_back_into_timm_dilated_or_not(name: str) -> None:
    dilated = Backbone(name, weights="none", in_channels=4, output_stride=8)
    assert dilated.strides[-1] == 8
    learn(dilated)
    images = torch.randn(1, 4, 64, 96)
    plain = timm.create_model(name, in_chans=4).eval()
    plain.load_state_dict(dilated.model.state_dict(), strict=True)
    undilated = Backbone(name, weights="none", in_channels=4).eval()
    undilated.load_state_dict(dilated.state_dict())
    with torch.no_grad():
        assert torch.equal(plain(images), undilated.model(images))
        if name != "mobilenetv3_small_050":  # which timm dilates only without its classifier: see test_dilation.py
            theirs = timm.create_model(name, in_chans=4, output_stride=8).eval()
            theirs.load_state_dict(dilated.model.state_dict(), strict=True)
            assert torch.equal(theirs(images), dilated.model.eval()(images))


def test_what_has_learned_of_four_channels_is_a_beginning_of_four_channels(tmp_path: Path) -> None:
    tuned = Backbone(TINY, weights="none", in_channels=4)
    learn(tuned)
    save_file(tuned.model.state_dict(), tmp_path / "tuned.safetensors")
    again = Backbone(TINY, str(tmp_path / "tuned.safetensors"), in_channels=4)
    assert all(torch.equal(again.state_dict()[key], value) for key, value in tuned.state_dict().items())
    with pytest.raises(WeightsError, match=rf"tuned\.safetensors' do not fit {TINY}: .*conv1\.0"):
        Backbone(TINY, str(tmp_path / "tuned.safetensors"), in_channels=3)
