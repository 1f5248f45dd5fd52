"""Mixed precision on a CPU, with depthwise convolutions in float32."""

import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


class CPUMixedPrecision(MixedPrecision):
    """Lightning's `bf16-mixed`, with depthwise convolutions in float32.

    Torch computes their gradients slowly in bfloat16. With a 5 x 5 kernel or a stride of 2 they take two to ten times
    as long as in float32, on a processor with bfloat16 instructions (benchmarks/depthwise.py times whole steps).
    """

    def __init__(self) -> None:
        super().__init__("bf16-mixed", "cpu")
        self._hooks: list[RemovableHandle] = []

    def convert_module(self, module: nn.Module) -> nn.Module:
        """Keep every depthwise convolution in float32."""
        self.teardown()
        for layer in module.modules():
            if is_depthwise(layer):
                self._hooks.append(layer.register_forward_pre_hook(_leave_autocast))
                self._hooks.append(layer.register_forward_hook(_enter_autocast, always_call=True))
        return module

    def teardown(self) -> None:
        """Restore the module."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []


def is_depthwise(layer: nn.Module) -> bool:
    """Return whether a layer convolves each channel by itself.

    >>> is_depthwise(nn.Conv2d(8, 16, 3, groups=8)), is_depthwise(nn.Conv2d(8, 8, 3, groups=4))
    (True, False)
    """
    return isinstance(layer, nn.Conv2d) and 1 < layer.groups == layer.in_channels


def _leave_autocast(layer: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
    if not torch.is_autocast_enabled("cpu"):
        return None
    torch.set_autocast_enabled("cpu", False)
    vars(layer)["_left_autocast"] = True
    return (inputs[0].float(),)


def _enter_autocast(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
    if vars(layer).pop("_left_autocast", False):
        torch.set_autocast_enabled("cpu", True)
