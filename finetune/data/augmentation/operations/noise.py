"""Gaussian noise."""

import torch
from torch import Tensor


def gaussian_noise(image: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """Add noise that is independent for each pixel and channel; the caller clips values outside 0 to 255.

    Args:
        image: float32 (C, H, W).
        sigma: standard deviation, in the units of the image.
        generator: on the CPU.

    Returns:
        float32 (C, H, W).
    """
    return torch.randn(image.shape, generator=generator, dtype=torch.float32).mul_(sigma).add_(image)
