"""Sharpening by an unsharp mask."""

from torch import Tensor

from finetune.data.augmentation.operations.blur import gaussian_blur


def sharpen(image: Tensor, amount: float, sigma: float = 1.0) -> Tensor:
    """Enlarge the distance of each value to the blurred image; the caller clips values outside 0 to 255.

    Args:
        image: float32 (C, H, W).
        amount: 0 changes nothing, 1 doubles the distance.
        sigma: standard deviation of the blur, pixels.

    Returns:
        float32 (C, H, W).
    """
    return gaussian_blur(image, sigma).mul_(-amount).add_(image, alpha=1 + amount)
