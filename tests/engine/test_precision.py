"""Mixed precision on a CPU: which layers stay in float32, and when."""

from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.builders.recipe import with_placeholders_for_recipe
from finetune.builders.trainer import build_trainer
from finetune.config.compose import compose, to_plain_dict
from finetune.engine.precision import CPUMixedPrecision
from tests.samples import SYNTHETIC


class Layers(pl.LightningModule):
    """A pointwise and a depthwise convolution, which return the types of their results."""

    def __init__(self) -> None:
        super().__init__()
        self.pointwise = nn.Conv2d(4, 8, 1)
        self.depthwise = nn.Conv2d(8, 8, 5, stride=2, groups=8)

    def forward(self, images: Tensor) -> tuple[torch.dtype, torch.dtype, Tensor]:
        """Images (B, 4, H, W)."""
        middle = self.pointwise(images)
        result = self.depthwise(middle)
        return middle.dtype, result.dtype, result


def test_depthwise_convolutions_compute_in_float32_and_all_others_in_bfloat16() -> None:
    layers, precision = Layers(), CPUMixedPrecision()
    precision.convert_module(layers)
    images = torch.randn(2, 4, 9, 9)
    with precision.forward_context():
        pointwise, depthwise, result = layers(images)
        assert torch.is_autocast_enabled("cpu")
        expected = F.conv2d(layers.pointwise(images).float(), layers.depthwise.weight.bfloat16(), groups=8, stride=2)
    assert (pointwise, depthwise) == (torch.bfloat16, torch.float32)
    assert 0 < (result - layers.depthwise.bias.view(-1, 1, 1) - expected).abs().max() < 0.1


def test_autocast_is_on_again_after_a_depthwise_convolution_that_failed() -> None:
    layers, precision = Layers(), CPUMixedPrecision()
    precision.convert_module(layers)
    with precision.forward_context():
        with pytest.raises(RuntimeError, match="channels"):
            layers.depthwise(torch.randn(1, 3, 9, 9))
        assert torch.is_autocast_enabled("cpu")


def test_without_autocast_and_after_the_training_nothing_is_changed() -> None:
    layers, precision = Layers(), CPUMixedPrecision()
    precision.convert_module(precision.convert_module(layers))  # once for the training, once for the test
    double = layers.double()(torch.randn(1, 4, 9, 9).double())
    assert double[:2] == (torch.float64, torch.float64)
    precision.teardown()
    with torch.autocast("cpu", torch.bfloat16):
        assert layers.float()(torch.randn(1, 4, 9, 9))[1] == torch.bfloat16


@pytest.mark.parametrize(
    ("overrides", "ours"),
    [
        (("trainer.precision=bf16-mixed",), True),
        (("trainer.precision=32-true",), False),
        (("trainer.precision=bf16-true",), False),
    ],
)
def test_the_trainer_uses_it_for_mixed_precision_on_a_cpu(
    tmp_path: Path, overrides: tuple[str, ...], ours: bool
) -> None:
    settings = to_plain_dict(compose(*SYNTHETIC, *overrides, f"output={tmp_path}"))
    made = build_trainer(with_placeholders_for_recipe(settings), tmp_path)
    assert made.precision == overrides[0].partition("=")[2]
    assert isinstance(made.precision_plugin, CPUMixedPrecision) == ours
