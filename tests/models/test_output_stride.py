"""Output strides set by the user: under every head that supports them, and against smp's models."""

from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch

from finetune.builders.checks.model import check_head
from finetune.builders.model import build_model
from finetune.models import HEADS, Segmenter
from tests.models.heads.pyramids import SMALL
from tests.models.sampling import slow_unless
from tests.models.test_segmenter import with_weights_of
from tests.samples import decided

TINY = "test_resnet.r160_in1k"
# further options of heads that select maps by their strides
STRIDE_OPTIONS = {head: {"strides": [4, 8]} for head in ("linear", "hrnet", "ocr")}
STRIDE_OPTIONS |= {head: {"stride": 8} for head in ("setr_pup", "mask_transformer")}
DILATABLE = [head for head, spec in HEADS.items() if len(spec.output_strides) > 1]
CASES = [(head, stride, TINY) for head in DILATABLE for stride in (8, 16, 32)]
OTHER_CASES = [
    (head, stride, name)
    for head in DILATABLE
    for stride in (8, 16, 32)
    for name in ("test_convnext", "vit_tiny_patch16_224")
]
QUICK_CASES = [
    *((head, 8, TINY) for head in DILATABLE),
    *((head, stride, TINY) for head in ("fpn", "unet", "deeplabv3plus") for stride in (16, 32)),
]


@pytest.mark.parametrize(("head", "output_stride", "name"), slow_unless(QUICK_CASES, CASES))
def test_every_head_with_a_choice_of_output_strides_trains_at_each(head: str, output_stride: int, name: str) -> None:
    check_trains(head, output_stride, name)


@pytest.mark.parametrize(
    ("head", "output_stride", "name"),
    slow_unless([("fpn", 8, "test_convnext")], OTHER_CASES),
)
def test_output_strides_of_other_backbones_are_trained_too(head: str, output_stride: int, name: str) -> None:
    with torch.device("meta"):  # shapes and gradients without numbers
        check_trains(head, output_stride, name)


def check_trains(head: str, output_stride: int, name: str) -> None:
    options = SMALL[head] | STRIDE_OPTIONS.get(head, {})
    model = Segmenter(name, head, 3, weights="none", head_options=options, output_stride=output_stride)
    assert model.neck.strides[-1] == output_stride
    outputs = model(torch.randn(2, 3, 50, 90), auxiliary=True)
    assert all(logits.shape == (2, 3, 50, 90) for logits in outputs)
    sum(logits.square().mean() for logits in outputs).backward()
    assert {key for key, p in model.named_parameters() if p.grad is None} == model.unused_parameters()


THEIRS = {"deeplabv3plus": smp.DeepLabV3Plus, "deeplabv3": smp.DeepLabV3, "pan": smp.PAN}
COMPARISONS = [
    (head, stride, name)
    for head, stride in (("deeplabv3plus", 8), ("deeplabv3plus", 16), ("deeplabv3", 16), ("pan", 32))
    for name in ("resnet10t", "mobilenetv3_small_050")
]


@pytest.mark.parametrize(
    ("head", "output_stride", "name"),
    slow_unless([("deeplabv3plus", 8, "resnet10t"), ("pan", 32, "resnet10t")], COMPARISONS),
)
def test_the_logits_equal_those_of_smp_with_the_same_output_stride(head: str, output_stride: int, name: str) -> None:
    torch.manual_seed(0)
    expected = THEIRS[head](f"tu-{name}", encoder_weights=None, classes=5, encoder_output_stride=output_stride).eval()
    images = torch.randn(1, 3, 256, 256)  # large enough for every atrous rate, and for pan
    model = with_weights_of(expected, name, head, output_stride=output_stride)
    with torch.no_grad():
        assert torch.allclose(model(images), expected(images), atol=1e-6)
        assert model(images).std() > 0


def test_a_rebuilt_model_has_the_same_output_stride() -> None:
    model = Segmenter(TINY, "upernet", 2, weights="none", head_options=SMALL["upernet"], output_stride=8).eval()
    rebuilt = Segmenter.from_config(model.config()).eval()
    rebuilt.load_state_dict(model.state_dict())
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(rebuilt(images), model(images))
    older = {key: value for key, value in model.config().items() if key != "output_stride"}
    assert Segmenter.from_config(older).neck.strides[-1] == 32


def test_training_reads_the_output_stride_from_the_config() -> None:
    overrides = ["backbone=timm", f"backbone.name={TINY}", "backbone.weights=none", "head=upernet"]
    assert build_model(decided(overrides), ["a", "b"]).neck.strides[-1] == 32
    dilated = build_model(decided([*overrides, "backbone.output_stride=8"]), ["a", "b"])
    assert dilated.neck.strides[-1] == 8


@pytest.mark.parametrize("head", sorted(set(HEADS) - set(DILATABLE)))
def test_a_head_without_a_choice_of_output_strides_is_an_error(head: str) -> None:
    with pytest.raises(ValueError, match=rf"backbone\.output_stride=16: head={head} supports only 32"):
        Segmenter(TINY, head, 2, weights="none", output_stride=16)
    assert head in ("dpt", "linknet", "manet", "segnet", "unetplusplus")


@pytest.mark.parametrize("name", ["hrnet_w18_small", "swin_tiny_patch4_window7_224", "ghostnet_050"])
def test_a_backbone_that_cannot_be_dilated_is_an_error(name: str) -> None:
    with (
        torch.device("meta"),
        pytest.raises(ValueError, match=rf"output_stride=8: {name} cannot be dilated; .* has stride \d+"),
    ):
        Segmenter(name, "upernet", 2, weights="none", output_stride=8)


@pytest.mark.parametrize("given", [4, 64, "8", True, [8]])
def test_the_error_for_an_unknown_output_stride_lists_the_possible_ones(given: Any) -> None:
    with pytest.raises(ValueError, match=r"backbone\.output_stride=.*: expected 8, 16 or 32, or null"):
        Segmenter(TINY, "fpn", 2, weights="none", output_stride=given)


def check_ocr(output_stride: int | None, **options: Any) -> None:
    check_head(
        {"head": {"name": "ocr", **options}, "backbone": {"output_stride": output_stride}, "data": {"batch_size": 2}}
    )


def test_a_missing_map_is_found_before_weights_are_read() -> None:
    check_ocr(output_stride=None)
    with pytest.raises(
        ValueError, match=r"head\.strides=16: .* maps have strides 2, 4, 8\. Set head\.strides to one of"
    ):
        check_ocr(output_stride=8)
    check_ocr(output_stride=8, strides=[4, 8])
