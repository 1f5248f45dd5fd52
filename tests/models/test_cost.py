"""The operators that a model runs, against the models of smp."""

from collections import Counter
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from finetune.models import Segmenter
from tests.models.sampling import slow_unless

THEIRS = {
    "unet": smp.Unet,
    "unetplusplus": smp.UnetPlusPlus,
    "manet": smp.MAnet,
    "linknet": smp.Linknet,
    "fpn": smp.FPN,
    "pspnet": smp.PSPNet,
    "pan": smp.PAN,
    "deeplabv3": smp.DeepLabV3,
    "deeplabv3plus": smp.DeepLabV3Plus,
    "upernet": smp.UPerNet,
    "segformer": smp.Segformer,
}
FREE = {"aten.alias.default", "aten.new_empty.default"}  # of an empty crop; they compute and copy nothing
# resize the coarsest map to the size that pan's poolings need, and back
STRETCHED = ("aten.upsample_bilinear2d", "aten._adaptive_avg_pool2d")


class Operators(TorchDispatchMode):
    """A counter of the operators that run, with the shapes of their inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: Counter[tuple[str, tuple[tuple[int, ...], ...]]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        shapes = tuple(tuple(value.shape) for value in args if isinstance(value, torch.Tensor))
        self.counted[str(func), shapes] += 1
        return func(*args, **(kwargs or {}))


def operators(model: nn.Module, size: tuple[int, int]) -> Counter[tuple[str, tuple[tuple[int, ...], ...]]]:
    """Return the operators of a forward and a backward pass."""
    with Operators() as running:
        model(torch.ones(2, 3, *size)).square().mean().backward()
    return running.counted


CASES = [(head, backbone) for head in THEIRS for backbone in ("resnet10t", "mobilenetv3_small_050")]


@pytest.mark.parametrize(
    ("head", "backbone"),
    slow_unless([("unet", "mobilenetv3_small_050"), ("pan", "resnet10t"), ("fpn", "resnet10t")], CASES),
)
def test_forward_and_backward_run_exactly_the_operators_that_smp_runs(head: str, backbone: str) -> None:
    size = (128, 160) if head == "pan" else (64, 96)
    theirs = operators(THEIRS[head](f"tu-{backbone}", encoder_weights=None, classes=3), size)
    ours = operators(Segmenter(backbone, head, 3, weights="none"), size)
    assert sum(ours.values()) > 200
    additional = {name for name, _ in ours - theirs} - FREE
    assert not {name for name in additional if head != "pan" or not name.startswith(STRETCHED)}
