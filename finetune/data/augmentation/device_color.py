"""Color jitter that waits until a batch is on its device, where it costs next to nothing."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def with_colors(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return a batch whose images have their colors, without its `color_matrix`; one that has none stays as it is.

    Args:
        batch: of `collate`, on any device: `image` uint8 (B, C, H, W), and perhaps `color_matrix`, which has the bits
            of the matrices of `change_colors`.
    """
    changed = {key: value for key, value in batch.items() if key != "color_matrix"}
    if "color_matrix" in batch:
        changed["image"] = change_colors(batch["image"], batch["color_matrix"].view(torch.float32))
    return changed


def as_bits(matrix: Tensor) -> Tensor:
    """Return a float32 tensor as int32: Lightning changes the type of all floating-point numbers of a batch."""
    return matrix.view(torch.int32)


def change_colors(images: Tensor, matrices: Tensor) -> Tensor:
    """Return images after a linear change of the channels of each, rounded: uint8 (B, C, H, W).

    One channel is added after another: a product of matrices might be computed in bfloat16 or TF32.

    Args:
        images: uint8 (B, C, H, W).
        matrices: for each channel, factors of all channels and an offset: float32 (B, C, C + 1).
    """
    values, factors = images.to(matrices.dtype), matrices[..., None, None]
    changed = factors[:, :, -1].expand_as(values)
    for channel in range(images.shape[1]):
        changed = torch.addcmul(changed, factors[:, :, channel], values[:, channel, None])
    return changed.round().clamp(0, 255).to(torch.uint8)
