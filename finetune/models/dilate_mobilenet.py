"""Dilates timm's MobileNetV3 and V4, whose full models lack the `output_stride` of their feature extractors."""

from typing import Any

from torch import nn


def can_dilate(model: Any) -> bool:
    """Return whether a model consists of convolutional blocks like MobileNetV3's."""
    if type(model).__name__ != "MobileNetV3":
        return False
    return not any(type(layer).__name__ == "MobileAttention" for layer in model.blocks.modules())


def dilate(model: Any, output_stride: int) -> None:
    """Remove the strides beyond `output_stride`, and dilate all kernels after each block that loses one.

    timm's own builder does the same for its feature extractors.

    Args:
        model: a model for which `can_dilate` is true; changed in place, with its `feature_info`.
        output_stride: 8 or 16.
    """
    reached, dilation = 2, 1  # after the stem
    for stage in model.blocks:
        for block in stage:
            spatial = [
                layer for layer in block.modules() if isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1)
            ]
            stride = max((layer.stride[0] for layer in spatial), default=1)
            loses_stride = stride > 1 and reached * stride > output_stride
            for layer in spatial:
                _set_dilation(layer, dilation, 1 if loses_stride else layer.stride[0])
            reached, dilation = (reached, dilation * stride) if loses_stride else (reached * stride, dilation)
    for entry in model.feature_info:
        entry["reduction"] = min(int(entry["reduction"]), output_stride)


def _set_dilation(layer: nn.Conv2d, dilation: int, stride: int) -> None:
    layer.stride = (stride, stride)
    layer.dilation = (dilation, dilation)
    if layer.padding != (0, 0):  # else the layer computes its padding in the forward pass
        height, width = layer.kernel_size
        layer.padding = (dilation * (height - 1) // 2, dilation * (width - 1) // 2)
