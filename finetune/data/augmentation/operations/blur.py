"""Gaussian blur."""

import cv2
from torch import Tensor

from finetune.data.opencv import Array, apply


def gaussian_blur(image: Tensor, sigma: float) -> Tensor:
    """Blur with a Gaussian cut off at three sigma; the border repeats.

    Args:
        image: uint8 (C, H, W).
        sigma: standard deviation, pixels.

    Returns:
        uint8 (C, H, W).
    """
    side = 1 + 2 * max(1, round(3 * sigma))

    def blurred(pixels: Array) -> Array:
        return cv2.GaussianBlur(pixels, (side, side), sigma, borderType=cv2.BORDER_REPLICATE)

    return apply(blurred, image)
