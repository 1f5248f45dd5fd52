"""DICOM files of one picture, such as a slice of a CT."""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from finetune.data.images.decode import check_size
from finetune.data.images.pixels import Header, Pixels
from finetune.data.records import DataError


def recognizes(start: bytes) -> bool:
    """Return whether a file is a DICOM file."""
    return start[128:132] == b"DICM"


def header(path: Path) -> Header:
    """Return the contents of a file without decoding its pixels."""
    found = _pydicom(path).dcmread(path, stop_before_pixels=True)
    if (frames := int(found.get("NumberOfFrames", 1))) > 1:
        raise DataError(f"'{path}' holds {frames} frames; expected one. Save each frame as a file of its own.")
    samples = 3 if _has_palette(found) else int(found.get("SamplesPerPixel", 1))
    check_size(found.Columns, found.Rows, path, bytes_per_pixel=4 * samples)
    return Header(found.Rows, found.Columns, samples, dtype=_dtype(found))


def pixels(path: Path) -> Pixels:
    """Decode a file, with its rescale slope and intercept applied: a CT comes out in Hounsfield units."""
    dtype = header(path).dtype
    found = _pydicom(path).dcmread(path)
    values = np.asarray(found.pixel_array)
    if _has_palette(found):
        colors = _pydicom(path).pixels.apply_color_lut(values, found)
        values = colors >> 8 * (colors.itemsize - 1)  # 16 bit are for the display, and hold no more than 8
    if found.get("PhotometricInterpretation") == "MONOCHROME1":  # its lowest value is white
        values = ~values if found.get("PixelRepresentation") else 2**found.BitsStored - 1 - values
    if dtype != np.uint8:
        values = values * float(found.get("RescaleSlope", 1)) + float(found.get("RescaleIntercept", 0))
    return Pixels(values.astype(dtype).reshape(found.Rows, found.Columns, -1))


def _has_palette(found: Any) -> bool:
    return bool(found.get("PhotometricInterpretation") == "PALETTE COLOR")


def _dtype(found: Any) -> np.dtype[Any]:
    """Return the type of the rescaled pixels: whole numbers stay whole."""
    if _has_palette(found):
        return np.dtype(np.uint8)
    slope, intercept = (
        float(found.get(f"Rescale{name}", default)) for name, default in (("Slope", 1), ("Intercept", 0))
    )
    if found.BitsAllocated == 8 and not found.get("PixelRepresentation") and (slope, intercept) == (1, 0):
        return np.dtype(np.uint8)
    return np.dtype(np.int32 if slope.is_integer() and intercept.is_integer() else np.float32)


def _pydicom(path: Path) -> ModuleType:
    try:
        import pydicom
    except ImportError as error:
        raise DataError(
            f"'{path}' is a DICOM file, and reading it needs a package that is not installed: "
            f"pip install 'finetune-seg[medical]'."
        ) from error
    module: ModuleType = pydicom
    return module
