"""Histogram equalization."""

import cv2
from torch import Tensor

from finetune.data.opencv import apply


def equalize(image: Tensor) -> Tensor:
    """Spread the values of each channel so that all levels of brightness are about equally frequent.

    A value becomes the fraction of the pixels that are at most as bright, stretched so that the darkest is 0 and the
    brightest 255. A channel of one value stays as it is.

    Args:
        image: uint8 (C, H, W).

    Returns:
        uint8 (C, H, W).
    """
    return apply(cv2.equalizeHist, image, channels=1)
