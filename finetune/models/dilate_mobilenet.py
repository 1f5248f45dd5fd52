"""Dilates timm's MobileNetV3 and V4, whose full models lack the argument that their feature extractors have."""

from typing import Any

from torch import nn


def can_dilate(model: Any) -> bool:
    """Whether a model is built of convolutional blocks like MobileNetV3's."""
    if type(model).__name__ != "MobileNetV3":
        return False
    return not any(type(layer).__name__ == "MobileAttention" for layer in model.blocks.modules())


def dilate(model: Any, output_stride: int) -> None:
    """Take out the strides that go beyond `output_stride`, and spread all kernels behind each block that loses one.

    This is what timm's own builder does where it is given an output stride.

    Args:
        model: one that `can_dilate`, changed in place, its `feature_info` too.
        output_stride: 8 or 16.
    """
    reached, dilation = 2, 1  # behind the stem
    for stage in model.blocks:
        for block in stage:
            spatial = [
                layer for layer in block.modules() if isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1)
            ]
            stride = max((layer.stride[0] for layer in spatial), default=1)
            loses = stride > 1 and reached * stride > output_stride
            for layer in spatial:
                _spread(layer, dilation, 1 if loses else layer.stride[0])
            reached, dilation = (reached, dilation * stride) if loses else (reached * stride, dilation)
    for entry in model.feature_info:
        entry["reduction"] = min(int(entry["reduction"]), output_stride)


def _spread(layer: nn.Conv2d, dilation: int, stride: int) -> None:
    layer.stride = (stride, stride)
    layer.dilation = (dilation, dilation)
    if layer.padding != (0, 0):  # else it pads by itself, as much as it needs
        height, width = layer.kernel_size
        layer.padding = (dilation * (height - 1) // 2, dilation * (width - 1) // 2)
