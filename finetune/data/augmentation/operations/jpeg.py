"""Traces of JPEG compression."""

from io import BytesIO

import numpy as np
from PIL import Image
from torch import Tensor

from finetune.data.opencv import Array, apply


def jpeg(image: Tensor, quality: int) -> Tensor:
    """Compress as JPEG and decompress. An image that is neither gray nor RGB is returned as it is: JPEG has no others.

    Args:
        image: uint8 (C, H, W).
        quality: of Pillow's encoder, 1 (worst) to 95.

    Returns:
        uint8 (C, H, W).
    """
    if len(image) not in (1, 3):
        return image

    def compressed(pixels: Array) -> Array:
        file = BytesIO()
        Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(file, "JPEG", quality=quality)
        return np.array(Image.open(file))

    return apply(compressed, image)
