"""Read a part of a TIFF file from the tiles or strips that hold it."""

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from finetune.data.images import decode
from finetune.data.images.formats import pillow, tiff
from finetune.data.images.pixels import Array, Pixels
from finetune.data.records import DataError
from finetune.data.window import Window

COMPRESSION, COLOR_MAP, DEPTH = 259, 320, 32997
PREMULTIPLIED = 1  # a kind of extra samples
JPEG = 7


def window(path: Path, part: Window) -> Pixels:
    """Decode a part of the first image with all of its bands and bits; of rare kinds, the whole is decoded for it."""
    tags = tiff.read_tags(path)
    if not _is_read_in_parts(tags):
        whole = tiff.pixels(path)
        return Pixels(whole.values[part.rows, part.columns], whole.alpha)
    values = _values(path, part)
    if tags.get(tiff.PHOTOMETRIC) == tiff.PALETTE:
        return pillow.image_pixels(_with_palette(values, tags))
    return Pixels(values, tiff.header(path).alpha)


def picture(path: Path, part: Window) -> Image.Image | Array:
    """Decode a part of the first image as Pillow would: with its palette, or as numbers (H, W) of more than 8 bit."""
    tags = tiff.read_tags(path)
    if not (_is_read_in_parts(tags) and tiff.pillow_reads_all(tags)) or tiff.kind(tags) == "f":
        return decode.open_image(path).crop(part.box)
    values = _values(path, part)
    if tags.get(tiff.PHOTOMETRIC) == tiff.PALETTE:
        return _with_palette(values, tags)
    if values.dtype != np.uint8:
        return values[..., 0]
    return Image.fromarray(values[..., 0] if values.shape[2] == 1 else values)


def in_parts(path: Path) -> bool:
    """Return whether a part of a file is read without decoding the whole."""
    return _is_read_in_parts(tiff.read_tags(path))


def _is_read_in_parts(tags: Mapping[int, Any]) -> bool:
    """Return whether a file is read in parts: if it can be, and Pillow is not a way out of a missing package."""
    is_missing = any(find_spec(name) is None for name in ("tifffile", "imagecodecs"))
    fits = tags[tiff.WIDTH] * tags[tiff.HEIGHT] <= decode.MAX_PIXELS
    return _has_windows(tags) and not (is_missing and fits and tiff.pillow_reads_all(tags))


def _has_windows(tags: Mapping[int, Any]) -> bool:
    """Return whether tifffile decodes a file to the same pixels as Pillow does where Pillow can."""
    bits, photometric, extra = tags.get(tiff.BITS, (1,)), tags.get(tiff.PHOTOMETRIC), tags.get(tiff.EXTRA, ())
    is_known = {
        tiff.PALETTE: bits == (8,),
        tiff.YCBCR: tags.get(COMPRESSION) == JPEG,
        tiff.RGB: True,
        tiff.BLACK_IS_ZERO: True,
    }.get(int(-1 if photometric is None else photometric), False)
    is_divided = PREMULTIPLIED in extra and tiff.pillow_reads_all(tags)  # Pillow takes the alpha out of the colors
    is_plain = tags.get(tiff.ORIENTATION, 1) == 1 and tags.get(DEPTH, 1) == 1 and not is_divided
    return is_known and is_plain and len(set(bits)) == 1 and bits[0] in (8, 16, 32, 64)


def _values(path: Path, part: Window) -> Array:
    """Return the samples of a part (H, W, bands)."""
    with tiff.import_tifffile(path, tiff.header(path)).TiffFile(path) as file:
        page = file.pages[0]
        if page.is_memmappable:
            values = np.array(page.asarray(out="memmap", squeeze=False)[:, 0, part.rows, part.columns])
        else:
            values = _from_segments(page, part, path)
    planes, height, width, samples = values.shape
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    return values.transpose(1, 2, 0, 3).reshape(height, width, planes * samples)


def _from_segments(page: Any, part: Window, path: Path) -> Array:
    """Return a part (planes, H, W, samples) from the tiles or strips that overlap it."""
    planes, _, _, _, samples = page.shaped
    values = np.full((planes, part.height, part.width, samples), page.nodata, dtype=page.dtype)
    for index in _segments(page, part, path):
        decoded, (plane, _, top, left, _), _ = page.decode(_data(page, index), index, **_jpeg(page))
        if decoded is None:  # a tile that was never written
            continue
        above, before = max(0, part.top - top), max(0, part.left - left)
        overlap = decoded[0, above : part.top + part.height - top, before : part.left + part.width - left]
        row, column = top + above - part.top, left + before - part.left
        values[plane, row : row + overlap.shape[0], column : column + overlap.shape[1]] = overlap[
            : part.height - row, : part.width - column
        ]
    return values


def _segments(page: Any, part: Window, path: Path) -> Iterator[int]:
    """Return the numbers of the tiles or strips that overlap a part."""
    planes, _, rows, columns, samples = page.shaped
    height, width = (page.tilelength, page.tilewidth) if page.is_tiled else (min(page.rowsperstrip, rows), columns)
    if height * width * samples * page.dtype.itemsize > 3 * decode.MAX_PIXELS:
        raise DataError(
            f"'{path}' is stored in blocks of {width:,} x {height:,} pixels, and at most {decode.MAX_PIXELS:,} are "
            f"decoded at once. Save it as a tiled TIFF."
        )
    down, across = -(-rows // height), -(-columns // width)
    return (
        (plane * down + row) * across + column
        for plane in range(planes)
        for row in range(part.top // height, -(-(part.top + part.height) // height))
        for column in range(part.left // width, -(-(part.left + part.width) // width))
    )


def _data(page: Any, index: int) -> bytes | None:
    """Return the encoded bytes of a tile or strip; None if it was never written."""
    offset, count = page.dataoffsets[index], page.databytecounts[index]
    if not count:
        return None
    file = page.parent.filehandle
    file.seek(offset)
    data: bytes = file.read(count)  # what is missing at the end of a file makes the decoder fail
    return data


def _jpeg(page: Any) -> dict[str, Any]:
    return {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader} if page.compression == JPEG else {}


def _with_palette(values: Array, tags: Mapping[int, Any]) -> Image.Image:
    image = Image.fromarray(values[..., 0])
    colors = np.array(tags[COLOR_MAP], dtype=np.uint32).reshape(3, -1) // 256
    image.putpalette(colors.T.astype(np.uint8).tobytes())
    return image
