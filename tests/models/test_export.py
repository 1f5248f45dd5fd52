"""Models as programs of torch.export: graphs of torch's own operators, which run without timm, smp and this package."""

import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from finetune.models import HEADS, Segmenter
from finetune.models.feature_levels import COARSEST
from tests.models.heads.pyramids import SMALL, settle

MODELS = [
    *((head, "vgg11" if HEADS[head].takes_pools else "resnet10t") for head in HEADS),
    *((head, "test_vit") for head in ("dpt", "setr_pup", "mask_transformer")),  # made for maps of one stride
]
OPTIONS: dict[str, dict[str, Any]] = {
    "resnet10t": {"avg_down": False},  # see the last test
    "vgg11": {"mlp_ratio": 0.02},  # its classifier would be larger than all else
}
# Pixels that height and width need if one program is to fit several sizes: two for each pixel of the coarsest map. One
# pixel is broadcast instead, which torch takes for another program ("0/1 specialization").
SMALLEST = {
    **dict.fromkeys(HEADS, 64),  # the map of stride 32
    **dict.fromkeys(["deeplabv3", "deeplabv3plus", "fcn", "pspnet", "setr_pup", "mask_transformer"], 32),  # 8 or 16
    "pan": 256,  # three poolings of a map of stride 16
}
QUICK = [("ocr", "resnet10t"), ("mask_transformer", "test_vit")]
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
    assert set(QUICK) < set(MODELS)


@pytest.mark.parametrize("size", [(37, 53), pytest.param((64, 96), marks=pytest.mark.slow)])
@pytest.mark.parametrize(("head", "backbone"), MODELS)
def test_the_program_of_a_model_gives_its_logits(head: str, backbone: str, size: tuple[int, int]) -> None:
    model = build(head, backbone)
    program = export(model, torch.randn(1, 3, *size), {})
    check_same(program.module(), model, torch.randn(1, 3, *size))


@pytest.mark.parametrize(
    ("head", "backbone"),
    [pytest.param(*model, marks=[] if model in QUICK else [pytest.mark.slow]) for model in MODELS],
)
def test_one_program_fits_all_multiples_of_32_down_to_the_smallest_and_no_other_size(head: str, backbone: str) -> None:
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
def test_no_program_fits_all_sizes_because_torch_takes_the_padding_for_a_condition() -> None:
    sizes = {axis: Dim(f"side_{axis}", min=64, max=512) for axis in (2, 3)}
    with pytest.raises((AssertionError, RuntimeError), match=r"inconsistent|violated"):
        export(build("linear", "resnet10t"), torch.randn(1, 3, 101, 85), sizes)


@pytest.mark.slow
def test_a_backbone_that_timm_pads_by_its_size_fits_several_but_not_into_a_file() -> None:
    """The padding of timm's "same" layers is counted with `math.ceil`, which `torch.export.save` cannot write.

    Dilated ResNets that average on the way down have such layers, and so do all models named `tf_`.
    """
    model = build("fcn", "resnet10t", avg_down=True)
    program = export(model, torch.randn(2, 3, 96, 128), SIZES)
    check_same(program.module(), model, torch.randn(1, 3, 64, 32))
    with pytest.raises(RuntimeError, match="ceil"):
        through_a_file(program)
