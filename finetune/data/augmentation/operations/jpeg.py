"""Traces of JPEG compression."""

from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor


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
    pixels = image[0].numpy() if len(image) == 1 else image.permute(1, 2, 0).contiguous().numpy()
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    decoded = torch.from_numpy(np.array(Image.open(file)))
    return decoded[None] if len(image) == 1 else decoded.permute(2, 0, 1).contiguous()
