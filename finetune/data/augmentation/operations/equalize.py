"""Histogram equalization."""

import torch
from torch import Tensor

from finetune.data.augmentation.operations.lookup import look_up


def equalize(image: Tensor) -> Tensor:
    """Spread the values of each channel so that all levels of brightness are about equally frequent.

    A value becomes the fraction of the pixels that are at most as bright, stretched so that the darkest is 0 and the
    brightest 255. A channel of one value stays as it is.

    Args:
        image: uint8 (C, H, W).

    Returns:
        uint8 (C, H, W).
    """
    return torch.stack([look_up(channel, _table(channel)) for channel in image])


def _table(channel: Tensor) -> Tensor:
    below = torch.bincount(channel.reshape(-1), minlength=256).cumsum(0).double()
    darkest = below[below > 0][0]
    if darkest == below[-1]:
        return torch.arange(256, dtype=torch.uint8)
    return ((below - darkest) / (below[-1] - darkest) * 255).round().clamp(0, 255).to(torch.uint8)
