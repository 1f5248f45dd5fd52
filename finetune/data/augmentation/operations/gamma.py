"""Gamma: a power of the brightness."""

import numpy as np
from torch import Tensor

from finetune.data.augmentation.operations.lookup import look_up


def adjust_gamma(image: Tensor, gamma: float) -> Tensor:
    """Raise all values, as fractions of 255, to a power; black and white stay.

    Args:
        image: uint8 (C, H, W).
        gamma: exponent above 0; below 1 brightens, above 1 darkens.

    Returns:
        uint8 (C, H, W).
    """
    return look_up(image, (np.arange(256) / 255) ** gamma * 255)
