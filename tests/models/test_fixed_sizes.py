"""Fixed-size backbones: with weights of timm's size, at the default settings of a training."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from finetune.builders.model import backbone_image_size, build_model_from
from finetune.models import Backbone, Segmenter, WeightsError
from finetune.models.input_size import can_be_built_for_another, family, fixed_size, size_options
from tests.models.sampling import slow_unless
from tests.samples import decided

CROP = 320  # pixels, of conf/augment
NARROW = {"embed_dim": 64, "depth": 4, "num_heads": 2}  # of a family whose smallest has 86M parameters
# one per family, and the size that it is built for: the crop's if timm resamples the weights' tables
FIXED = {
    "beit_base_patch16_224": CROP,
    "eca_botnext26ts_256": 256,
    "cait_xxs24_224": 224,
    "coat_tiny": CROP,
    "convit_tiny": 224,
    "crossvit_tiny_240": 240,
    "efficientformer_l1": 224,
    "efficientformerv2_s0": 224,
    "gcvit_xxtiny": 224,
    "gmlp_ti16_224": 224,
    "hiera_tiny_224": 224,
    "levit_128s": 224,
    "nest_tiny": 224,
    "pit_ti_224": 224,
    "test_coatnet": CROP,
    "test_maxvit": CROP,
    "test_vit_relpos": CROP,
    "tnt_s_legacy_patch16_224": CROP,
    "visformer_tiny": 224,
    "volo_d1_224": 224,
}


def settings(name: str, weights: str, image_size: Any = None) -> dict[str, Any]:
    """Return the part of a training's config that determines sizes."""
    return {"backbone": {"name": name, "weights": weights, "image_size": image_size}, "augment": {"crop": CROP}}


QUICK = ["crossvit_tiny_240", "levit_128s", "test_maxvit", "test_vit_relpos", "convit_tiny"]


@pytest.mark.parametrize(("name", "side"), slow_unless([(name, FIXED[name]) for name in QUICK], FIXED.items()))
def test_weights_of_timms_size_load_at_the_default_settings_and_give_timms_features(
    name: str, side: int, tmp_path: Path
) -> None:
    options = NARROW if name.startswith("beit") else {}
    theirs = timm.create_model(name, **options).eval()
    path = str(tmp_path / "own.pth")
    torch.save(theirs.state_dict(), path)
    size = backbone_image_size(settings(name, path))
    ours = Backbone(name, path, options=options, image_size=size).eval()
    assert ours.input_size.only == (side, side)
    if side == CROP:
        own = {"state_dict": theirs.state_dict()}
        theirs = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=own, img_size=side, **options).eval()
    images = torch.randn(1, 3, side, side)
    expected = theirs.forward_intermediates(
        images, indices=list(ours.indices), norm=False, output_fmt="NCHW", intermediates_only=True
    )
    maps = dict(zip(ours.indices, expected, strict=True))
    for level, feature in zip(ours.levels, ours(images), strict=True):
        assert torch.equal(feature, maps[level.index])


def test_the_sample_has_every_family_of_fixed_size() -> None:
    fixed = {family(name) for name in timm.list_models() if fixed_size(name, size_options(name, None, {}))}
    assert len(fixed) >= 19
    assert {family(name) for name in FIXED} == fixed


@pytest.mark.parametrize(("name", "weights", "side"), [("levit_128s", "none", CROP), ("test_maxvit", "mine.pth", CROP)])
def test_the_size_is_the_crops_without_weights_or_if_timm_resamples_them(name: str, weights: str, side: int) -> None:
    assert backbone_image_size(settings(name, weights)) == (side, side)
    assert backbone_image_size(settings(name, weights, [96, 64])) == (96, 64)


def test_the_error_for_weights_of_another_size_names_the_setting(tmp_path: Path) -> None:
    path = str(tmp_path / "own.safetensors")
    save_file(timm.create_model("levit_128s").state_dict(), path)
    assert backbone_image_size(settings("levit_128s", path)) is None
    size = backbone_image_size(settings("levit_128s", path, 320))
    with pytest.raises(
        WeightsError, match=r"of another shape.*built for 320x320.*Set backbone\.image_size .*null for timm's, 224x224"
    ):
        Backbone("levit_128s", path, image_size=size)


def test_weights_of_the_given_size_load(tmp_path: Path) -> None:
    path = str(tmp_path / "own.safetensors")
    theirs = timm.create_model("levit_128s", img_size=96).state_dict()
    save_file(theirs, path)
    ours = Backbone("levit_128s", path, image_size=(96, 96)).model.state_dict()
    assert all(torch.equal(ours[key], tensor) for key, tensor in theirs.items())


@pytest.mark.parametrize("name", ["crossvit_tiny_240", "efficientformer_l1"])
def test_a_size_that_a_model_cannot_be_built_for_is_an_error(name: str) -> None:
    assert not can_be_built_for_another(name)
    with pytest.raises(ValueError, match=rf"backbone\.image_size=\[512, 512\]: {name} can only be built for"):
        Backbone(name, "none", image_size=(512, 512))


@pytest.mark.parametrize("name", ["pit_ti_224", "resnet18"])
@pytest.mark.parametrize("given", [320, [320], "320", (0, 32)])
def test_a_size_that_is_not_a_height_and_a_width_is_an_error(name: str, given: Any) -> None:
    with pytest.raises(ValueError, match=r"backbone\.image_size=.*: expected \[height, width\] in pixels"):
        Segmenter(name, "linear", 2, weights="none", image_size=given)


def test_a_model_initialized_from_another_has_its_size() -> None:
    source = Segmenter("test_maxvit", "linear", 2, weights="none", image_size=(96, 96))
    config = decided(["backbone=timm", "backbone.name=test_maxvit", "head=linear", "init_from=source"])
    model, report = build_model_from(config, ["sky", "road"], source)
    assert model.backbone.input_size == source.backbone.input_size
    assert all(torch.equal(model.state_dict()[key], tensor) for key, tensor in source.state_dict().items())
    assert report.startswith("{0} of {0} tensors".format(len(model.state_dict())))
