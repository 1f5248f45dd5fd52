"""TIFF files: by Pillow where it reads all that they hold, otherwise by tifffile."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from finetune.data.images.decode import check_size
from finetune.data.images.formats import pillow
from finetune.data.images.pixels import Header, Pixels, upright
from finetune.data.records import DataError

STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two are BigTIFF
WIDTH, HEIGHT, BITS, PHOTOMETRIC, ORIENTATION, SAMPLES, EXTRA, FORMAT = 256, 257, 258, 262, 274, 277, 338, 339
TILE_WIDTH, TILE_HEIGHT = 322, 323
SUBFILE, REDUCED, TRANSPARENCY = 254, 1, 4  # the kind of an image of a file, and its bits
ALPHA = (1, 2)  # kinds of extra samples: premultiplied or not
BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, LAB = 1, 2, 3, 5, 6, 8
KINDS = {1: "u", 2: "i", 3: "f", 4: "u"}  # the fourth is undefined
# one band that Pillow decodes: kind and bits
BY_PILLOW = {"u": (1, 2, 4, 8, 12, 16), "i": (16, 32), "f": (32,)}


def recognizes(start: bytes) -> bool:
    """Return whether a file is a TIFF."""
    return start.startswith(STARTS)


def header(path: Path) -> Header:
    """Return the contents of the first image of a file without decoding its pixels."""
    tags = read_tags(path)
    is_palette = tags.get(PHOTOMETRIC) == PALETTE and _bits(tags) <= 8
    if is_palette or (tags.get(PHOTOMETRIC) in (CMYK, YCBCR, LAB) and _bits(tags) == 8):
        if EXTRA in tags:
            return pillow.header(path)
        return Header(tags[HEIGHT], tags[WIDTH], 3, orientation=tags.get(ORIENTATION, 1))
    samples, extra = tags.get(SAMPLES, 1), tags.get(EXTRA, ())
    alpha = len(extra) > 0 and extra[-1] in ALPHA and samples - len(extra) in (1, 3)
    dtype = _dtype(tags)
    return Header(tags[HEIGHT], tags[WIDTH], samples - alpha, alpha, dtype, tags.get(ORIENTATION, 1))


def pixels(path: Path) -> Pixels:
    """Decode the first image of a file with all of its bands and bits."""
    tags = read_tags(path)
    if pillow_reads_all(tags):
        decoded = pillow.pixels(path)
        # Pillow has one mode for all signed integers, and other byte orders
        is_color = tags.get(PHOTOMETRIC) == PALETTE
        return decoded if is_color else Pixels(decoded.values.astype(_dtype(tags), copy=False), decoded.alpha)
    found = header(path)
    size = (found.colors + found.alpha) * found.dtype.itemsize
    check_size(found.width, found.height, path, bytes_per_pixel=size)
    check_size(tags.get(TILE_WIDTH, 1), tags.get(TILE_HEIGHT, 1), path, bytes_per_pixel=size)
    with import_tifffile(path, found).TiffFile(path) as file:
        page = file.pages[0]
        values = page.asarray()
        if page.axes.startswith("S"):  # one plane after the other
            values = np.moveaxis(values, 0, -1)
    return Pixels(upright(values.reshape(found.height, found.width, -1), found.orientation), found.alpha)


def read_tags(path: Path) -> Mapping[int, Any]:
    """Return the tags of the first image; Pillow's own opening logs an error for those that it does not decode."""
    with path.open("rb") as file:
        start = file.read(8)
        start += file.read(8) if b"+" in start[2:4] else b""
        tags = ImageFileDirectory_v2(start)
        file.seek(tags.next)
        tags.load(file)
        first, is_stack = dict(tags), False
        if tags.next:
            with suppress(Exception):  # whatever follows the first image, it can be read
                file.seek(tags.next)
                tags.load(file)
                is_stack = dict(tags) != first and not _is_copy(tags, first)
    if is_stack:
        raise DataError(f"'{path}' holds several images (a stack); one is expected. Save each as a file of its own.")
    return first


def _is_copy(second: Mapping[int, Any], first: Mapping[int, Any]) -> bool:
    """Return whether the second image of a file has another size, or is a reduced copy or a mask of transparency."""
    is_marked = int(second.get(SUBFILE, 0)) & (REDUCED | TRANSPARENCY)
    return bool(is_marked) or any(second.get(tag) != first.get(tag) for tag in (WIDTH, HEIGHT))


def pillow_reads_all(tags: Mapping[int, Any]) -> bool:
    """Return whether Pillow decodes all bands and bits."""
    samples, extra, bits = tags.get(SAMPLES, 1), tags.get(EXTRA, ()), _bits(tags)
    if samples == 1:
        return bits in BY_PILLOW.get(kind(tags), ())
    colors, photometric = samples - len(extra), tags.get(PHOTOMETRIC)
    known = {RGB: (3, ALPHA), YCBCR: (3, ()), LAB: (3, ()), CMYK: (4, ()), BLACK_IS_ZERO: (1, ALPHA[1:])}
    count, alphas = known.get(int(photometric or 0), (0, ()))
    return bits == 8 and kind(tags) == "u" and colors == count and len(extra) <= 1 and set(extra) <= set(alphas)


def _bits(tags: Mapping[int, Any]) -> int:
    return int(max(tags.get(BITS, (1,))))


def kind(tags: Mapping[int, Any]) -> str:
    """Return the kind of the numbers as NumPy calls it: u, i or f."""
    return KINDS.get(max(tags.get(FORMAT, (1,))), "")


def _dtype(tags: Mapping[int, Any]) -> np.dtype[Any]:
    size = -(-_bits(tags) // 8)
    return np.dtype(f"{kind(tags)}{next((known for known in (1, 2, 4, 8) if known >= size), size)}")


def import_tifffile(path: Path, found: Header) -> ModuleType:
    """Return the module tifffile, or raise DataError that says how to install it."""
    try:
        import imagecodecs  # noqa: F401  # tifffile needs it for compressed files
        import tifffile
    except ImportError as error:
        bands = found.colors + found.alpha
        raise DataError(
            f"'{path}' has {bands} band{'s' * (bands > 1)} of {8 * found.dtype.itemsize} bit ({found.dtype}), and "
            f"reading it needs packages that are not installed: pip install 'finetune-seg[tiff]'."
        ) from error
    module: ModuleType = tifffile
    return module
