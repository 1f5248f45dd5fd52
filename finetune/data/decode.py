"""Decode image and mask files as uint8 tensors.

An image of more than `MAX_PIXELS` is refused before its pixels are decoded, however small its file is. Pillow has the
same limit, but any code in the process may lift it; this one stays. That many pixels take half a gigabyte of memory in
each decoding process, and are more than a model can take at once. Larger images, such as aerial ones of 30,000 x 30,000
pixels, must be cut into tiles, which are also read faster.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor

from finetune.data.mask_values import MaskValues, class_indices, move_ignored
from finetune.data.records import DataError

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
SIXTEEN_BIT = ("I", "I;16", "I;16L", "I;16B", "I;16N")
ORIENTATION = 0x0112  # the EXIF tag
SAMPLES_PER_PIXEL = 277  # the TIFF tag
MAX_PIXELS = 178_956_970  # twice 256 MB of three bytes each, Pillow's own limit: 13,377 x 13,377
# the formats that Pillow decodes itself: a PostScript file, whatever its suffix, would be run by another program
FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "PPM", "JPEG2000")


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
    image = _open(path)
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


def read_mask(path: Path, mask_values: MaskValues | None = None, ignore_index: int = 255) -> Tensor:
    """Decode a mask as class indices.

    Palette files give their indices, 1-bit files 0 and 1, and a color file with three equal channels counts as gray.

    Args:
        path: as for `read_image`.
        mask_values: file value of class 0, class 1, ...: `[0, 255]` makes 255 class 1, and `[0, [1, 2]]` makes 1 and 2
            class 1. None keeps the values.
        ignore_index: value of the pixels to leave out; the file may hold it in addition to `mask_values`.

    Returns:
        uint8 (H, W), with `ignored_label(mask_values, ignore_index)` for the pixels to leave out.

    Raises:
        DataError: the file cannot be decoded, is a color image, or has a value above 255 or outside `mask_values`.
    """
    values = _indices(_open(path), path)
    if mask_values is not None:
        return torch.from_numpy(class_indices(values, mask_values, ignore_index, path))
    if not 0 <= ignore_index <= 255:
        values = move_ignored(values, ignore_index, path)
    if values.size and (values.max() > 255 or values.min() < 0):
        raise DataError(
            f"mask '{path}' has values from {values.min()} to {values.max()}; class indices are 0 to 255. "
            "List the file's values in data.mask_values, in the order of the classes."
        )
    return torch.from_numpy(values.astype(np.uint8))


def read_binary_mask(path: Path) -> Tensor:
    """Decode a mask of one class as uint8 (H, W): 1 where the file holds any value but 0.

    Raises:
        DataError: the file cannot be decoded, or is a color image.
    """
    return torch.from_numpy((_indices(_open(path), path) != 0).astype(np.uint8))


def read_size(path: Path) -> tuple[int, int]:
    """Return the height and width of an image after its EXIF orientation is applied."""
    image = _open(path)
    return image.height, image.width


def _open(path: Path) -> Image.Image:
    """Decode the whole image and apply its EXIF orientation."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            _check_size(image, path)
            _check_bands(image, path)
            image.load()  # Image.verify() lets a truncated file pass
            if image.getexif().get(ORIENTATION, 1) == 1:
                return image
            return ImageOps.exif_transpose(image)
    except DataError:
        raise
    except Exception as error:  # a broken file makes Pillow's readers raise nearly anything
        raise DataError(
            f"cannot read '{path}': {type(error).__name__}: {error}. Replace the file or remove it."
        ) from error


def _check_size(image: Image.Image, path: Path) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise DataError(
            f"'{path}' claims to have {image.width:,} x {image.height:,} pixels, in a file of "
            f"{path.stat().st_size:,} bytes; at most {MAX_PIXELS:,} pixels are read. Cut it into tiles."
        )


def _check_bands(image: Image.Image, path: Path) -> None:
    """Raise DataError for a TIFF with more bands than Pillow decodes; it leaves out the others without a word."""
    samples = getattr(image, "tag_v2", {}).get(SAMPLES_PER_PIXEL, 0)
    if samples > len(image.getbands()):
        raise DataError(
            f"'{path}' has {samples} bands, of which only {len(image.getbands())} can be read. Save those that you "
            f"need as gray, RGB or RGBA."
        )


def _eight_bit(image: Image.Image, path: Path) -> Image.Image:
    # Pillow's own convert() clips at 255, which turns nearly every pixel white
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise DataError(
            f"image '{path}' has values from {values.min():,} to {values.max():,}. Shift and scale them to 0 to "
            f"65,535, and save it with 16 bit."
        )
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def _indices(image: Image.Image, path: Path) -> npt.NDArray[np.integer]:
    values = np.array(image)
    if image.mode == "1":
        return values.astype(np.uint8)
    if image.mode in ("P", "L", *SIXTEEN_BIT):
        return values
    if image.mode in ("LA", "PA"):
        return values[..., 0]
    if image.mode in ("RGB", "RGBA") and (values[..., :1] == values[..., 1:3]).all():
        return values[..., 0]
    raise DataError(
        f"mask '{path}' is a color image (mode {image.mode}), but a mask holds one class index for each pixel. "
        "Save it as a gray or palette PNG whose values are 0, 1, 2, ..."
    )
