"""Backbones dilated as a user asks for, under every head that takes them so, and against smp's."""

from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch

from finetune.builders.checks.training import check_head
from finetune.builders.model import build_model
from finetune.config.compose import load_config
from finetune.models import HEADS, Segmenter
from tests.models.heads.pyramids import SMALL
from tests.models.test_segmenter import trained_by

TINY = "test_resnet.r160_in1k"
# what heads are told besides, whose maps are named by their strides
NAMED = {head: {"strides": [4, 8]} for head in ("linear", "hrnet", "ocr")}
NAMED |= {head: {"stride": 8} for head in ("setr_pup", "mask_transformer")}
TAKE_ANY = [head for head, kind in HEADS.items() if len(kind.output_strides) > 1]


@pytest.mark.parametrize("head", TAKE_ANY)
@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("name", [TINY, "test_convnext", "vit_tiny_patch16_224"])
def test_every_head_that_takes_other_output_strides_learns_with_them(head: str, output_stride: int, name: str) -> None:
    options = SMALL[head] | NAMED.get(head, {})
    with torch.device("meta"):  # where shapes and gradients are followed without numbers
        model = Segmenter(name, head, 3, weights="none", head_options=options, output_stride=output_stride)
        assert model.neck.strides[-1] == output_stride
        outputs = model(torch.randn(2, 3, 50, 90), auxiliary=True)
        assert all(logits.shape == (2, 3, 50, 90) for logits in outputs)
        sum(logits.square().mean() for logits in outputs).backward()
        assert {key for key, p in model.named_parameters() if p.grad is None} == model.unused_parameters()


@pytest.mark.parametrize(
    ("head", "theirs", "output_stride"),
    [
        ("deeplabv3plus", smp.DeepLabV3Plus, 8),
        ("deeplabv3plus", smp.DeepLabV3Plus, 16),
        ("deeplabv3", smp.DeepLabV3, 16),
        ("pan", smp.PAN, 32),
    ],
)
@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050"])
def test_the_logits_are_those_of_smp_with_that_output_stride(
    head: str, theirs: Any, output_stride: int, name: str
) -> None:
    torch.manual_seed(0)
    expected = theirs(f"tu-{name}", encoder_weights=None, classes=5, encoder_output_stride=output_stride).eval()
    images = torch.randn(1, 3, 256, 256)  # wide enough for every atrous rate, and for pan
    model = trained_by(expected, name, head, output_stride=output_stride)
    with torch.no_grad():
        assert torch.allclose(model(images), expected(images), atol=1e-6)
        assert model(images).std() > 0


def test_a_model_is_built_again_with_its_output_stride() -> None:
    model = Segmenter(TINY, "upernet", 2, weights="none", head_options=SMALL["upernet"], output_stride=8).eval()
    again = Segmenter.from_config(model.config()).eval()
    again.load_state_dict(model.state_dict())
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(again(images), model(images))
    older = {key: value for key, value in model.config().items() if key != "output_stride"}
    assert Segmenter.from_config(older).neck.strides[-1] == 32


def test_a_training_takes_it_from_its_config() -> None:
    words = ["backbone=timm", f"backbone.name={TINY}", "backbone.weights=none", "head=upernet"]
    assert build_model(load_config(words, "train"), ["a", "b"]).neck.strides[-1] == 32
    dilated = build_model(load_config([*words, "backbone.output_stride=8"], "train"), ["a", "b"])
    assert dilated.neck.strides[-1] == 8


@pytest.mark.parametrize("head", sorted(set(HEADS) - set(TAKE_ANY)))
def test_a_head_that_doubles_every_map_says_so(head: str) -> None:
    with pytest.raises(ValueError, match=rf"backbone\.output_stride=16: head={head} takes 32 alone"):
        Segmenter(TINY, head, 2, weights="none", output_stride=16)
    assert head in ("dpt", "linknet", "manet", "segnet", "unetplusplus")


@pytest.mark.parametrize("name", ["hrnet_w18_small", "swin_tiny_patch4_window7_224", "ghostnet_050"])
def test_a_backbone_that_cannot_be_dilated_says_so(name: str) -> None:
    with (
        torch.device("meta"),
        pytest.raises(ValueError, match=rf"output_stride=8: {name} cannot be dilated; .* has stride \d+"),
    ):
        Segmenter(name, "upernet", 2, weights="none", output_stride=8)


@pytest.mark.parametrize("given", [4, 64, "8", True, [8]])
def test_another_stride_is_answered_with_those_that_there_are(given: Any) -> None:
    with pytest.raises(ValueError, match=r"backbone\.output_stride=.*: expected 8, 16 or 32, or null"):
        Segmenter(TINY, "fpn", 2, weights="none", output_stride=given)


def test_a_check_finds_a_map_that_is_not_there_before_weights_are_read() -> None:
    check_head({"name": "ocr"}, 2, {"output_stride": None})
    with pytest.raises(ValueError, match=r"head\.strides=16: .* have strides 2, 4, 8\. Set head\.strides to one of"):
        check_head({"name": "ocr"}, 2, {"output_stride": 8})
    check_head({"name": "ocr", "strides": [4, 8]}, 2, {"output_stride": 8})
