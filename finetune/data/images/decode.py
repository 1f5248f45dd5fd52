"""Open image and mask files after a check of their size and bands.

An image of more than `MAX_PIXELS` is refused before its pixels are decoded, however small its file is. Pillow has the
same limit, but any code in the process may lift it; this one stays. That many pixels take half a gigabyte of memory in
each decoding process, and are more than a model can take at once. Of larger images, such as aerial ones of 30,000 x
30,000 pixels, parts can be read if they are TIFF or NumPy files; others must be converted or cut into tiles.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageOps

from finetune.data.records import DataError

DECODING = 3  # to be raised when a file is read as other values than before: what is kept of files is void then
SIXTEEN_BIT = ("I", "I;16", "I;16L", "I;16B", "I;16N")
ORIENTATION = 0x0112  # the EXIF tag
SAMPLES_PER_PIXEL = 277  # the TIFF tag
MAX_PIXELS = 178_956_970  # twice 256 MB of three bytes each, Pillow's own limit: 13,377 x 13,377
NEXT = (
    "Larger TIFF and .npy files are read in parts, by a training with data.tiles=2048 and by a prediction in windows; "
    "convert other files, or cut them into tiles."
)
# the formats that Pillow decodes itself: a PostScript file, whatever its suffix, would be run by another program
FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "PPM", "JPEG2000")


def open_image(path: Path, factor: int = 1) -> Image.Image:
    """Decode the whole image and apply its EXIF orientation.

    Args:
        path: the file.
        factor: 2, 4 or 8 decodes a JPEG that has as many pixels each way at that fraction of its size.
    """
    with _opened(path) as image:
        _check_bands(image, path)
        if 1 < factor <= min(image.size):
            image.draft(None, (image.width // factor, image.height // factor))
        image.load()  # Image.verify() lets a truncated file pass
        if image.getexif().get(ORIENTATION, 1) == 1:
            return image
        return upright(image)


def upright(image: Image.Image) -> Image.Image:
    """Return an image with its EXIF orientation applied, which keeps the format of its file."""
    turned: Image.Image = ImageOps.exif_transpose(image)
    turned.format = image.format
    return turned


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image of a permitted size, whose pixels are not decoded yet; raise DataError for whatever fails."""
    try:
        # from an open file: Pillow would map an uncompressed one into memory, and turn its EXIF orientation wrongly
        with path.open("rb") as file, Image.open(file, formats=FORMATS) as image:
            check_size(image.width, image.height, path)
            yield image
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise too_large(path, str(error)) from error
    except Exception as error:  # a broken file makes Pillow's readers raise nearly anything
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"cannot read '{path}': {type(error).__name__}: {error}. Replace the file or remove it.")


def too_large(path: Path, reason: str) -> DataError:
    """Return the error for an image that Pillow says to be beyond its limit."""
    limit = min(MAX_PIXELS, 2 * (Image.MAX_IMAGE_PIXELS or MAX_PIXELS))
    return DataError(f"'{path}' has more than {limit:,} pixels, and no more are read at once ({reason}). {NEXT}")


def check_size(width: int, height: int, path: Path, bytes_per_pixel: int = 3) -> None:
    """Raise DataError for an image that takes more memory than `MAX_PIXELS` of three bytes."""
    if width * height > MAX_PIXELS or width * height * bytes_per_pixel > 3 * MAX_PIXELS:
        raise DataError(
            f"'{path}' claims to have {width:,} x {height:,} pixels"
            f"{f' of {bytes_per_pixel} bytes' if bytes_per_pixel > 3 else ''}, in a file of {path.stat().st_size:,} "
            f"bytes; at most {min(MAX_PIXELS, 3 * MAX_PIXELS // bytes_per_pixel):,} pixels are read at once. {NEXT}"
        )


def _check_bands(image: Image.Image, path: Path) -> None:
    """Raise DataError for a TIFF with more bands than Pillow decodes; it leaves out the others without a word."""
    samples = getattr(image, "tag_v2", {}).get(SAMPLES_PER_PIXEL, 0)
    if samples > len(image.getbands()):
        raise DataError(
            f"'{path}' has {samples} bands, of which only {len(image.getbands())} can be read. Save those that you "
            f"need as gray, RGB or RGBA."
        )
