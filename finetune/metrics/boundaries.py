"""Where the boundary of a class is in an image, and the band along it.

A boundary runs between pixels that count: neither the edge of an image nor that of an ignored area makes one. So an
image with an ignored frame has the same boundaries as the image without it.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], dtype=np.uint8)
BAND = 0.02  # of the diagonal of an image: width of the band in the paper below


def contour(mask: Mask, valid: Mask) -> Mask:
    """Return the boundary pixels (H, W) of a class: those with one of their four neighbors outside of the class.

    Args:
        mask: pixels of the class (H, W), all valid.
        valid: pixels that count (H, W).
    """
    return _near(mask, valid, CROSS)


def band(mask: Mask, valid: Mask, width: int) -> Mask:
    """Return the pixels (H, W) of a class that are at most `width` rows and columns from a pixel outside of it.

    Args:
        mask: pixels of the class (H, W), all valid.
        valid: pixels that count (H, W).
        width: pixels.

    Source: Cheng et al. 2021, https://arxiv.org/abs/2103.16562
    """
    return _near(mask, valid, np.ones((2 * width + 1, 2 * width + 1), dtype=np.uint8))


def band_width(height: int, width: int) -> int:
    """Return the width of the band of an image, in pixels.

    >>> band_width(512, 512), band_width(500, 530), band_width(8, 8)
    (14, 15, 1)
    """
    return max(1, round(BAND * float(np.hypot(height, width))))


def _near(mask: Mask, valid: Mask, neighbors: NDArray[np.uint8]) -> Mask:
    """Return the pixels of a mask of which one of the neighbors is outside of the class, and valid."""
    return (cv2.dilate((valid & ~mask).astype(np.uint8), neighbors) > 0) & mask
