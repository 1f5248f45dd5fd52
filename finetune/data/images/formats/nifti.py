"""NIfTI files of one picture: 2-D images, and volumes of a single slice.

The first axis of the file runs along a row of the picture and the second one down, as ITK, and the programs that build
on it, show a file. The orientation in space that the file may have as well turns nothing, so an image and its mask fit
whenever their files do.
"""

from pathlib import Path
from typing import Any

import numpy as np

from finetune.data.images.decode import check_size
from finetune.data.images.pixels import Array, Header, Pixels
from finetune.data.records import DataError

HEADER_SIZES = (b"\x5c\x01\0\0", b"\0\0\x01\x5c", b"\x1c\x02\0\0", b"\0\0\x02\x1c")  # NIfTI-1 and NIfTI-2
GZIP = b"\x1f\x8b"


def recognizes(start: bytes) -> bool:
    """Return whether a file is NIfTI; nothing else that is read here is compressed as a whole."""
    return start.startswith((*HEADER_SIZES, GZIP))


def header(path: Path) -> Header:
    """Return the contents of a file without decoding its pixels."""
    found = _opened(path)
    width, height = _sides(found.shape, path)
    check_size(width, height, path, bytes_per_pixel=8)
    return Header(height, width, 1, dtype=_dtype(found, path))


def pixels(path: Path) -> Pixels:
    """Decode a file, with its slope and intercept applied: a CT comes out in Hounsfield units."""
    dtype = header(path).dtype
    found = _opened(path)
    values: Array = np.asarray(found.dataobj).astype(dtype)
    return Pixels(values.reshape(_sides(found.shape, path)).T[..., None])


def _sides(shape: tuple[int, ...], path: Path) -> tuple[int, int]:
    """Return the lengths of the two axes of the picture."""
    sides = shape if len(shape) == 2 else tuple(length for length in shape if length != 1)
    if len(sides) > 2:
        raise DataError(
            f"'{path}' holds a volume of {' x '.join(map(str, shape))}; expected one picture. Save each slice as a "
            f"file of its own, such as .nii.gz or .npy, of images and masks alike."
        )
    if len(sides) < 2:
        raise DataError(f"'{path}' has the shape {shape}; expected a picture with two sides.")
    return sides[0], sides[1]


def _dtype(found: Any, path: Path) -> np.dtype[Any]:
    """Return the type of the rescaled pixels: whole numbers stay whole."""
    stored: np.dtype[Any] = found.get_data_dtype()
    if stored.kind not in "uif":
        raise DataError(f"'{path}' holds {stored} values; expected one number for each pixel.")
    slope, intercept = (float(found.dataobj.slope), float(found.dataobj.inter))
    if (slope, intercept) == (1, 0):
        return stored.newbyteorder("=")
    is_whole = stored.kind in "ui" and stored.itemsize <= 2 and slope.is_integer() and intercept.is_integer()
    return np.dtype(np.int32 if is_whole else np.float32)


def _opened(path: Path) -> Any:
    """Return the file as nibabel opens it; its pixels stay on disk."""
    try:
        import nibabel
    except ImportError as error:
        raise DataError(
            f"'{path}' is a NIfTI file, and reading it needs a package that is not installed: "
            f"pip install 'finetune-seg[medical]'."
        ) from error
    return nibabel.load(path)
