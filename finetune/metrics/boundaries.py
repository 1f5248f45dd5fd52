"""Where the boundary of a class is in an image, and the band along it.

A boundary runs between pixels that count: neither the edge of an image nor that of an ignored area makes one. So an
image with an ignored frame has the same boundaries as the image without it.
"""

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

BAND = 0.02  # of the diagonal of an image: width of the band in the paper below


def contour(mask: Mask, valid: Mask) -> Mask:
    """Return the boundary pixels (H, W) of a class: those with one of their four neighbors outside of the class.

    Args:
        mask: pixels of the class (H, W), all valid.
        valid: pixels that count (H, W).
    """
    outside, found = valid & ~mask, np.zeros_like(mask)
    found[1:] |= outside[:-1]
    found[:-1] |= outside[1:]
    found[:, 1:] |= outside[:, :-1]
    found[:, :-1] |= outside[:, 1:]
    return found & mask


def band(mask: Mask, valid: Mask, width: int) -> Mask:
    """Return the pixels (H, W) of a class that are at most `width` rows and columns from a pixel outside of it.

    Args:
        mask: pixels of the class (H, W), all valid.
        valid: pixels that count (H, W).
        width: pixels.

    Source: Cheng et al. 2021, https://arxiv.org/abs/2103.16562
    """
    return _near(_near(valid & ~mask, width).T, width).T & mask


def band_width(height: int, width: int) -> int:
    """Return the width of the band of an image, in pixels.

    >>> band_width(512, 512), band_width(500, 530), band_width(8, 8)
    (14, 15, 1)
    """
    return max(1, round(BAND * float(np.hypot(height, width))))


def _near(mask: Mask, reach: int) -> Mask:
    """Return the pixels that are at most `reach` rows from a pixel of a mask, by windows that double in size."""
    found, size, full = np.pad(mask, ((reach, reach), (0, 0))), 1, 2 * reach + 1
    while size < full:
        step = min(size, full - size)
        found = found[:-step] | found[step:]
        size += step
    return found
