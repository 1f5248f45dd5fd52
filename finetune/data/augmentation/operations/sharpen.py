"""Sharpening by an unsharp mask."""

import cv2
from torch import Tensor

from finetune.data.opencv import Array, apply


def sharpen(image: Tensor, amount: float, sigma: float = 1.0) -> Tensor:
    """Enlarge the distance of each value to the blurred image.

    Args:
        image: uint8 (C, H, W).
        amount: 0 changes nothing, 1 doubles the distance.
        sigma: standard deviation of the blur, pixels.

    Returns:
        uint8 (C, H, W).
    """

    def sharpened(pixels: Array) -> Array:
        blurred = cv2.GaussianBlur(pixels, (7, 7), sigma, borderType=cv2.BORDER_REPLICATE)
        return cv2.addWeighted(pixels, 1 + amount, blurred, -amount, 0)

    return apply(sharpened, image)
