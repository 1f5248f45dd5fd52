"""Image files: which reader reads one, by its content."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from PIL import Image

from finetune.data.images.decode import check_size, open_image, too_large
from finetune.data.images.formats import dicom, nifti, npy, pillow, png, tiff, tiff_windows
from finetune.data.images.pixels import Array, Header, Pixels
from finetune.data.records import DataError
from finetune.data.window import Window

Result = TypeVar("Result")
START = 132  # bytes of a file from which its format is told


class Format(NamedTuple):
    """A file format.

    Attributes:
        recognizes: called with the first `START` bytes of a file.
        header: reads everything but the pixels.
        pixels: reads the pixels, upright.
        window: reads a part of the pixels; None if that takes as much memory as the whole.
        picture: reads a part as Pillow would, for masks; None likewise.
        reduced: reads the pixels at a fraction of the size, or at the full size; None if that is never faster.
        in_parts: whether `window` reads a part of this file without decoding the whole.
    """

    recognizes: Callable[[bytes], bool]
    header: Callable[[Path], Header]
    pixels: Callable[[Path], Pixels]
    window: Callable[[Path, Window], Pixels] | None = None
    picture: Callable[[Path, Window], Image.Image | Array] | None = None
    reduced: Callable[[Path, int], Pixels] | None = None
    in_parts: Callable[[Path], bool] = lambda path: True


FORMATS = (
    Format(png.recognizes, png.header, png.pixels),
    Format(
        tiff.recognizes,
        tiff.header,
        tiff.pixels,
        tiff_windows.window,
        tiff_windows.picture,
        in_parts=tiff_windows.in_parts,
    ),
    Format(npy.recognizes, npy.header, npy.pixels, npy.window),
    Format(dicom.recognizes, dicom.header, dicom.pixels),
    Format(nifti.recognizes, nifti.header, nifti.pixels),
    Format(pillow.recognizes, pillow.header, pillow.pixels, reduced=pillow.reduced),
)


def read_header(path: Path, any_size: bool = False) -> Header:
    """Return the contents of an image file without decoding its pixels.

    Args:
        path: the file.
        any_size: whether the image may be larger than what is decoded at once, to be read in parts.

    Raises:
        DataError: the file is missing, no image, or too large.
    """
    found = _read(path, lambda found: found.header(path))
    if not any_size:
        check_size(found.width, found.height, path)
    return found


def read_pixels(path: Path, factor: int = 1) -> Pixels:
    """Decode an image file, whatever its suffix.

    Args:
        path: the file.
        factor: 2, 4 or 8 for 1/2, 1/4 or 1/8 of the size, where the format is decoded faster that way.

    Raises:
        DataError: the file is missing, truncated, no image, too large, or of a format whose package is not installed.
    """
    return _read(path, lambda found: found.reduced(path, factor) if found.reduced else found.pixels(path))


def has_windows(path: Path) -> bool:
    """Return whether parts of an image file can be read without decoding the whole."""
    return _read(path, lambda found: found.window is not None and found.in_parts(path))


def read_window(path: Path, part: Window) -> Pixels:
    """Decode a part of an image file.

    Raises:
        DataError: as for `read_pixels`; TIFF and NumPy files may be of any size.
    """
    return _read(path, lambda found: found.window(path, part) if found.window else _cut(found.pixels(path), part))


def open_window(path: Path, part: Window) -> Image.Image | Array:
    """Decode a part of an image as Pillow does, with its palette; as numbers (H, W) if they have more than 8 bit.

    Raises:
        DataError: as for `read_window`.
    """
    return _read(path, lambda found: found.picture(path, part) if found.picture else open_image(path).crop(part.box))


def _cut(whole: Pixels, part: Window) -> Pixels:
    return Pixels(whole.values[part.rows, part.columns], whole.alpha)


def _read(path: Path, read: Callable[[Format], Result]) -> Result:
    try:
        with path.open("rb") as file:
            start = file.read(START)
        return read(next(f for f in FORMATS if f.recognizes(start)))
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise too_large(path, str(error)) from error
    except Exception as error:  # a broken file makes the readers raise nearly anything
        raise DataError(
            f"cannot read '{path}': {type(error).__name__}: {error}. Replace the file or remove it."
        ) from error
