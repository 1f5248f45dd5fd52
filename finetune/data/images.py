"""Read images as uint8 tensors."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from finetune.data.decode import SIXTEEN_BIT, open_image
from finetune.data.records import DataError

MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def read_image(path: Path, channels: int = 3) -> Tensor:
    """Decode an image and apply its EXIF orientation.

    16-bit gray is divided by 257, so white stays white; 12-bit data in a 16-bit file therefore comes out dark.
    Transparency is dropped unless `channels` is 4.

    Args:
        path: a JPEG, PNG, TIFF, WebP, BMP, GIF, PPM or JPEG 2000 file, whatever its suffix.
        channels: 1 (gray), 3 (RGB) or 4 (RGBA).

    Returns:
        uint8 (channels, H, W), contiguous.

    Raises:
        DataError: the file is missing, truncated, not an image, too large, or holds floating-point values.
    """
    image = open_image(path)
    if image.mode in SIXTEEN_BIT:
        image = _eight_bit(image, path)
    elif image.mode == "F":
        raise DataError(f"image '{path}' holds floating-point values of unknown range. Save it with 8 or 16 bit.")
    return as_tensor(image, channels)


def as_tensor(image: Image.Image, channels: int) -> Tensor:
    """Return an 8-bit image as uint8 (channels, H, W), contiguous.

    Raises:
        ValueError: `channels` is not 1, 3 or 4.
    """
    if channels not in MODES:
        raise ValueError(f"channels={channels}: expected 1 (gray), 3 (RGB) or 4 (RGBA).")
    pixels = np.array(image.convert(MODES[channels]))
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], channels)).permute(2, 0, 1).contiguous()


def _eight_bit(image: Image.Image, path: Path) -> Image.Image:
    # Pillow's own convert() clips at 255, which turns nearly every pixel white
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise DataError(
            f"image '{path}' has values from {values.min():,} to {values.max():,}. Shift and scale them to 0 to "
            f"65,535, and save it with 16 bit."
        )
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))
