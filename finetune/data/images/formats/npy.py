"""Arrays of NumPy: (H, W), (H, W, bands) or (bands, H, W)."""

from pathlib import Path

import numpy as np

from finetune.data.images.decode import check_size
from finetune.data.images.pixels import BYTE, Array, Header, Pixels
from finetune.data.records import DataError
from finetune.data.window import Window


def recognizes(start: bytes) -> bool:
    """Return whether a file is an array of NumPy."""
    return start.startswith(b"\x93NUMPY")


def header(path: Path) -> Header:
    """Return the contents of a file; its pixels stay on disk."""
    values = _mapped(path)
    height, width, bands = values.shape
    return Header(height, width, bands, dtype=BYTE if values.dtype == bool else values.dtype)


def pixels(path: Path) -> Pixels:
    """Return the array as (H, W, bands); True is white."""
    values = _mapped(path)
    check_size(values.shape[1], values.shape[0], path, bytes_per_pixel=values.shape[2] * values.itemsize)
    return _decoded(values)


def window(path: Path, part: Window) -> Pixels:
    """Return a part of the array as (H, W, bands)."""
    return _decoded(_mapped(path)[part.rows, part.columns])


def _decoded(values: Array) -> Pixels:
    if values.dtype == bool:
        return Pixels(np.where(values, np.uint8(255), np.uint8(0)))
    return Pixels(np.array(values, dtype=values.dtype.newbyteorder("=")))


def _mapped(path: Path) -> Array:
    """Return the array as (H, W, bands)."""
    values: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    if values.dtype.kind not in "uifb":
        raise DataError(f"'{path}' holds {values.dtype}; an image is made of integers, floating-point numbers or bool.")
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or values.size == 0:
        raise DataError(f"'{path}' has the shape {values.shape}; expected (H, W), (H, W, bands) or (bands, H, W).")
    first, height, last = values.shape
    if first < min(height, last):
        values = np.moveaxis(values, 0, -1)
    elif last != 1 and last >= min(first, height):
        raise DataError(
            f"'{path}' has the shape {values.shape}, in which it is not clear which axis is the bands. Save it as "
            f"(H, W, bands) with fewer bands than rows and columns."
        )
    return values
