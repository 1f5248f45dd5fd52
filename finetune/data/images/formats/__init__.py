"""Image files: which reader reads one, by its content."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from finetune.data.images.formats import dicom, npy, pillow, png, tiff
from finetune.data.images.pixels import Header, Pixels
from finetune.data.records import DataError

Result = TypeVar("Result")
START = 132  # bytes of a file from which its format is told


class Format(NamedTuple):
    """A file format.

    Attributes:
        recognizes: called with the first `START` bytes of a file.
        header: reads everything but the pixels.
        pixels: reads the pixels, upright.
    """

    recognizes: Callable[[bytes], bool]
    header: Callable[[Path], Header]
    pixels: Callable[[Path], Pixels]


FORMATS = tuple(Format(m.recognizes, m.header, m.pixels) for m in (png, tiff, npy, dicom, pillow))


def read_header(path: Path) -> Header:
    """Return the contents of an image file without decoding its pixels.

    Raises:
        DataError: the file is missing or no image.
    """
    return _read(path, lambda found: found.header(path))


def read_pixels(path: Path) -> Pixels:
    """Decode an image file, whatever its suffix.

    Raises:
        DataError: the file is missing, truncated, no image, too large, or of a format whose package is not installed.
    """
    return _read(path, lambda found: found.pixels(path))


def _read(path: Path, read: Callable[[Format], Result]) -> Result:
    try:
        with path.open("rb") as file:
            start = file.read(START)
        return read(next(f for f in FORMATS if f.recognizes(start)))
    except DataError:
        raise
    except Exception as error:  # a broken file makes the readers raise nearly anything
        raise DataError(
            f"cannot read '{path}': {type(error).__name__}: {error}. Replace the file or remove it."
        ) from error
