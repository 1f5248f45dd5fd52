"""Read images as uint8 tensors."""

from pathlib import Path

import torch
from torch import Tensor

from finetune.data.images.formats import read_pixels, read_window
from finetune.data.images.pixels import Pixels, with_channels
from finetune.data.images.value_range import ValueRange, eight_bit
from finetune.data.opencv import write_channels
from finetune.data.window import Window

PIECE = 2**22  # pixels that are mapped at once: floating-point ones take up to 24 bytes a band meanwhile


def read_image(
    path: Path,
    channels: int = 3,
    value_range: ValueRange | None = None,
    window: Window | None = None,
    factor: int = 1,
) -> Tensor:
    """Decode an image and apply its EXIF orientation.

    Gray is repeated for 3 channels, color becomes its luma for 1, and transparency is dropped unless there is a channel
    for it, such as the fourth of RGBA.

    Args:
        path: a JPEG, PNG, TIFF, WebP, BMP, GIF, PPM, JPEG 2000, NumPy (.npy), DICOM or NIfTI file, whatever its suffix.
        channels: number of channels.
        value_range: the values that become black and white in images of more than 8 bit, as (low, high) or as such
            pairs for each band; values between them are mapped linearly. None refuses such images.
        window: the part to read; None reads the whole image.
        factor: 2, 4 or 8 for a whole image at that fraction of its size, if its format is decoded faster that way.

    Returns:
        uint8 (channels, H, W), contiguous.

    Raises:
        DataError: the file is missing, truncated, not an image, or too large; it has other bands than `channels`, or
            more than 8 bit and no `value_range`.
    """
    name = f"image '{path}'"
    decoded = read_pixels(path, factor) if window is None else read_window(path, window)
    height, width, _ = decoded.values.shape
    image = torch.empty(channels, height, width, dtype=torch.uint8)  # a copy, as Pillow's pixels are read-only
    count = max(1, PIECE // width)
    for top in range(0, height, count):
        piece = Pixels(decoded.values[top : top + count], decoded.alpha)
        write_channels(with_channels(eight_bit(piece, value_range, name), channels, name), image[:, top : top + count])
    return image
