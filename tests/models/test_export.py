"""Models as programs of torch.export: graphs of torch's operators, which run without timm, smp and this package."""

import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from finetune.models import HEADS, Segmenter
from finetune.models.feature_levels import COARSEST
from tests.models.heads.pyramids import SMALL, settle
from tests.models.sampling import slow_unless

MODELS = [
    *((head, "vgg11" if HEADS[head].takes_pools else "resnet10t") for head in HEADS),
    *((head, "test_vit") for head in ("dpt", "setr_pup", "mask_transformer")),  # made for maps of one stride
]
OPTIONS: dict[str, dict[str, Any]] = {
    "resnet10t": {"avg_down": False},  # see the last test
    "vgg11": {"mlp_ratio": 0.02},  # or its classifier would be larger than all other layers
}
# Pixels that height and width need for one program of several sizes: the coarsest map needs more than one pixel per
# side, because torch exports another program for sides of one pixel ("0/1 specialization").
SMALLEST = {
    **dict.fromkeys(HEADS, 64),  # the map of stride 32
    **dict.fromkeys(["deeplabv3", "deeplabv3plus", "fcn", "pspnet", "setr_pup", "mask_transformer"], 32),  # 8 or 16
    "pan": 256,  # three poolings of a map of stride 16
}
QUICK = [("pan", "test_resnet"), ("mask_transformer", "test_vit")]  # that interpolate, and encode positions, by sizes
SIZES = {0: Dim("batch", max=16), **{axis: COARSEST * Dim(f"cells_{axis}", min=1, max=32) for axis in (2, 3)}}


def build(head: str, backbone: str, **options: Any) -> Segmenter:
    torch.manual_seed(0)
    options = {**OPTIONS.get(backbone, {}), **options}
    model = Segmenter(backbone, head, 3, weights="none", head_options=SMALL[head], backbone_options=options)
    settle(model)
    return model.eval()


def export(model: nn.Module, images: Tensor, sizes: dict[int, Any]) -> ExportedProgram:
    return torch.export.export(model, (images,), dynamic_shapes=(sizes,))


def through_a_file(program: ExportedProgram) -> ExportedProgram:
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    return torch.export.load(file)


@torch.no_grad()
def check_same(program: nn.Module, model: nn.Module, images: Tensor) -> None:
    expected = model(images)
    assert torch.allclose(program(images), expected, rtol=1e-5, atol=1e-6)
    assert expected.std() > 0


def test_every_head_is_exported() -> None:
    assert {head for head, _ in MODELS} == set(SMALLEST) == set(HEADS)
    assert len(HEADS) == 19


@pytest.mark.parametrize(
    ("head", "backbone", "size"),
    slow_unless(
        [(*model, (37, 53)) for model in QUICK],
        [(*model, size) for model in dict.fromkeys([*QUICK, *MODELS]) for size in ((37, 53), (64, 96))],
    ),
)
def test_the_exported_program_returns_the_logits_of_the_model(head: str, backbone: str, size: tuple[int, int]) -> None:
    model = build(head, backbone)
    program = export(model, torch.randn(1, 3, *size), {})
    check_same(program.module(), model, torch.randn(1, 3, *size))


@pytest.mark.slow
@pytest.mark.parametrize(("head", "backbone"), slow_unless([("ocr", "test_resnet")], [("ocr", "test_resnet"), *MODELS]))
def test_one_program_accepts_exactly_the_multiples_of_32_from_the_smallest_size(head: str, backbone: str) -> None:
    model, side = build(head, backbone), SMALLEST[head]
    traced = export(model, torch.randn(2, 3, side + 64, side + 96), SIZES)
    program = through_a_file(traced).module()
    for batch, height, width in [(1, side, side), (3, side + 32, side), (2, side, side + 128)]:
        check_same(program, model, torch.randn(batch, 3, height, width))
    odd, below = (side + 5, side), (side, side - COARSEST)
    for height, width in [odd, below] if side > COARSEST else [odd]:
        with pytest.raises((AssertionError, RuntimeError), match="Guard failed"):
            program(torch.randn(1, 3, height, width))


@pytest.mark.slow
def test_no_program_accepts_all_sizes_because_padding_is_a_condition_to_torch() -> None:
    sizes = {axis: Dim(f"side_{axis}", min=64, max=512) for axis in (2, 3)}
    with pytest.raises((AssertionError, RuntimeError), match=r"inconsistent|violated"):
        export(build("linear", "resnet10t"), torch.randn(1, 3, 101, 85), sizes)


@pytest.mark.slow
def test_a_program_with_timms_same_padding_accepts_several_sizes_but_cannot_be_saved() -> None:
    """Saving fails: timm's "same" layers compute their padding by `math.ceil`, which `torch.export.save` cannot write.

    Dilated ResNets that average on the way down have such layers, and so do all models named `tf_`.
    """
    model = build("fcn", "resnet10t", avg_down=True)
    program = export(model, torch.randn(2, 3, 96, 128), SIZES)
    check_same(program.module(), model, torch.randn(1, 3, 64, 32))
    with pytest.raises(RuntimeError, match="ceil"):
        through_a_file(program)
