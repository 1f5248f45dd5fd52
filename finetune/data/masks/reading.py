"""Read masks as uint8 tensors."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from finetune.data.images.decode import SIXTEEN_BIT, open_image
from finetune.data.images.formats import has_windows, open_window, read_header
from finetune.data.masks.arrays import array_size, is_array, read_array, whole_numbers
from finetune.data.masks.lookup import class_indices, move_ignored
from finetune.data.masks.snapping import REACH
from finetune.data.masks.values import IgnoredValues, MaskValues, as_values, has_colors, ignored_label
from finetune.data.records import DataError
from finetune.data.window import Window


def read_mask(
    path: Path,
    mask_values: MaskValues | None = None,
    ignore_index: IgnoredValues = 255,
    snap: bool = False,
    window: Window | None = None,
    divisor: int = 1,
) -> Tensor:
    """Decode a mask as class indices.

    Palette files give their indices, or their colors if `mask_values` has colors. 1-bit files give 0 and 1, and a color
    file with three equal channels counts as gray.

    Args:
        path: as for `read_image`, or an array in a `.npy`, `.mat`, `.nii` or `.nii.gz` file.
        mask_values: file value of class 0, class 1, ...: `[0, 255]` makes 255 class 1, `[0, [1, 2]]` makes 1 and 2
            class 1, `[0, "*"]` makes all values but 0 class 1, and `["#000000", "#ff0000"]` makes red class 1. None
            keeps the values.
        ignore_index: value of the pixels to leave out, or several; the file may hold it in addition to `mask_values`.
        snap: whether values that are not listed become the most similar listed one nearby, as soft edges and JPEG need.
        window: the part to read; None reads the whole mask.
        divisor: a value of at least this many is divided by it before anything else.

    Returns:
        uint8 (H, W), with `ignored_label(mask_values, ignore_index)` for the pixels to leave out.

    Raises:
        DataError: the file cannot be decoded, is a color image without colors in `mask_values`, or has a value above
            255 or outside `mask_values`.
    """
    if window is None or not snap:
        return decode_mask(open_mask(path, window), path, mask_values, ignore_index, snap, divisor)
    outer = window.grown(REACH, mask_size(path))  # the neighbors that decide
    labels = decode_mask(open_mask(path, outer), path, mask_values, ignore_index, snap)
    inner = window.within(outer)
    return labels[inner.rows, inner.columns].contiguous()


def open_mask(path: Path, window: Window | None = None) -> Image.Image | npt.NDArray[np.integer]:
    """Decode a mask, or a part of it, before its values become classes: an image, or whole numbers (H, W).

    Raises:
        DataError: the file cannot be decoded, or holds fractions.
    """
    if is_array(path):
        return read_array(path, window)
    return without_fractions(open_image(path) if window is None else open_window(path, window), path)


def without_fractions(
    pixels: Image.Image | npt.NDArray[np.integer], path: Path | str
) -> Image.Image | npt.NDArray[np.integer]:
    """Return pixels as they are; as whole numbers (H, W) if they are an image of floating-point ones.

    Raises:
        DataError: the numbers are not whole.
    """
    is_float = isinstance(pixels, Image.Image) and pixels.mode == "F"
    return whole_numbers(np.array(pixels), path) if is_float else pixels


def has_mask_windows(path: Path) -> bool:
    """Return whether parts of a mask can be read without decoding the whole."""
    if is_array(path):
        return path.suffix.lower() == ".npy"
    return has_windows(path)


def mask_size(path: Path) -> tuple[int, int]:
    """Return the height and width of a mask, which may be larger than what is decoded at once.

    Raises:
        DataError: the file cannot be read.
    """
    if is_array(path):
        return array_size(path)
    return read_header(path, any_size=True).upright_size


def decode_mask(
    pixels: Image.Image | npt.NDArray[np.integer],
    path: Path | str,
    mask_values: MaskValues | None,
    ignore_index: IgnoredValues,
    snap: bool,
    divisor: int = 1,
) -> Tensor:
    """Return a mask in memory as class indices; see `read_mask`.

    Args:
        pixels: an image, or whole numbers (H, W).
        path: names the mask in messages.
        mask_values: as for `read_mask`.
        ignore_index: as for `read_mask`.
        snap: as for `read_mask`.
        divisor: as for `read_mask`.
    """
    if divisor > 1:
        numbers = mask_numbers(pixels, path)
        pixels = np.where(numbers >= divisor, numbers // divisor, numbers)
    if mask_values is not None:
        in_color = pixels if isinstance(pixels, Image.Image) and has_colors(mask_values) else None
        values = mask_numbers(pixels, path) if in_color is None else mask_colors(in_color)
        return torch.from_numpy(class_indices(values, mask_values, ignore_index, path, snap))
    values = mask_numbers(pixels, path)
    ignored = [value for value in as_values(ignore_index) if isinstance(value, int)]
    label = ignored_label(None, ignored)
    if ignored != [label]:
        values = move_ignored(values, ignored, label, path)
    if values.size and (values.max() > 255 or values.min() < 0):
        raise DataError(
            f"mask '{path}' has values from {values.min()} to {values.max()}; class indices are 0 to 255. "
            "List the file's values in data.mask_values, in the order of the classes."
        )
    return torch.from_numpy(values.astype(np.uint8))


def read_binary_mask(path: Path, window: Window | None = None) -> Tensor:
    """Decode a mask of one class, or a part of it, as uint8 (H, W): 1 where the file holds any value but 0.

    In a JPEG, whose zeros are noisy around edges, it is 1 from 128 on.

    Raises:
        DataError: the file cannot be decoded, is a color image, or a JPEG without a value from 128 on.
    """
    values = mask_numbers(open_mask(path, window), path)
    if not _is_jpeg(path):
        return torch.from_numpy((values != 0).astype(np.uint8))
    if window is None and 0 < values.max(initial=0) < 128:
        raise DataError(
            f"mask '{path}' is a JPEG with values up to {values.max()}, which may be its noise; expected 255 for the "
            f"class. Save it as a PNG."
        )
    return torch.from_numpy((values >= 128).astype(np.uint8))


def _is_jpeg(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\xff\xd8"


def mask_numbers(pixels: Image.Image | npt.NDArray[np.integer], path: Path | str) -> npt.NDArray[np.integer]:
    """Return the gray values or palette indices of a mask (H, W).

    Raises:
        DataError: it is a color image.
    """
    if not isinstance(pixels, Image.Image):
        return pixels
    if (values := gray_values(pixels)) is None:
        raise DataError(
            f"mask '{path}' is a color image (mode {pixels.mode}), but a mask holds one class index for each pixel. "
            "Save it as a gray or palette PNG whose values are 0, 1, 2, ..., or list its colors in data.mask_values, "
            "by class: ['#000000','#ff0000']."
        )
    return values


def gray_values(image: Image.Image) -> npt.NDArray[np.integer] | None:
    """Return the gray values or palette indices of an image (H, W); None if it has colors."""
    values = np.array(image)
    if image.mode == "1":
        return values.astype(np.uint8)
    if image.mode in ("P", "L", *SIXTEEN_BIT):
        return values
    if image.mode in ("LA", "PA"):
        return values[..., 0]
    if image.mode in ("RGB", "RGBA") and (values[..., :1] == values[..., 1:3]).all():
        return values[..., 0]
    return None


def mask_colors(image: Image.Image) -> npt.NDArray[np.uint32]:
    """Return the colors of an image as numbers of 24 bits, red first (H, W)."""
    # Pillow keeps four bytes a pixel, so this is a copy; in numpy, shifting and adding takes ten times as long
    pixels = np.frombuffer(image.convert("RGB").tobytes("raw", "BGRX"), "<u4") & 0xFFFFFF
    return pixels.reshape(image.height, image.width).astype(np.uint32)
