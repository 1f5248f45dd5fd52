"""Tables of 256 values."""

from functools import partial

import cv2
import numpy as np
from torch import Tensor

from finetune.data.opencv import Array, apply


def look_up(image: Tensor, table: Array) -> Tensor:
    """Replace each value by its entry in a table.

    Args:
        image: uint8 (C, H, W).
        table: a new value for each of the values 0 to 255; it is rounded and clipped.

    Returns:
        uint8 (C, H, W).
    """
    return apply(partial(cv2.LUT, lut=np.rint(table).clip(0, 255).astype(np.uint8)), image)
