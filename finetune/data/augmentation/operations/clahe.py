"""Histogram equalization of small parts of an image, with limited contrast (CLAHE)."""

import cv2
from torch import Tensor

from finetune.data.opencv import apply

FEWEST = 16  # pixels of a part, each way


def clahe(image: Tensor, limit: float = 2.0, tiles: int = 8) -> Tensor:
    """Equalize each channel with a table for each part of the image; in between, the tables are interpolated.

    Args:
        image: uint8 (C, H, W).
        limit: largest value of a bin of a part's histogram, in means of the histogram; 1 hardly changes the image.
        tiles: parts in each direction; fewer if they had less than 16 pixels a side, too few for a histogram.

    Returns:
        uint8 (C, H, W).

    Source: Zuiderveld 1994, Contrast limited adaptive histogram equalization, Graphics Gems IV.
    """
    down, across = (max(1, min(tiles, length // FEWEST)) for length in image.shape[1:])
    return apply(cv2.createCLAHE(limit, (across, down)).apply, image, channels=1)
