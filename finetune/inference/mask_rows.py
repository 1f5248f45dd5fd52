"""Write masks row by row, as PNG or TIFF with a palette or in gray.

Pillow has no writer for parts of an image; tifffile asks for the parts of one file, while the masks of several classes
grow together; GDAL does not report a full disk. Both formats are short to write for one band of 8 bit.
"""

import struct
import zlib
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from finetune.plots.colors import Color

Mask = NDArray[np.uint8]  # (n, W)
Colors = Sequence[Color] | None
STRIP = 32  # rows of a strip in a TIFF; windows end at multiples of them
CLASSIC_LIMIT = 2**31  # pixels; larger files are BigTIFF, as the other ends at 4 GB, and deflate may add some bytes
SHORT, LONG, LONG8 = "3H", "4I", "16Q"  # types of TIFF, and of struct


def write_masks(rows: Iterable[Sequence[Mask]], files: Sequence[Path], size: tuple[int, int], colors: Colors) -> None:
    """Write masks of an image that grow together.

    Args:
        rows: the next rows of each mask, from top to bottom.
        files: of each mask, PNG or TIFF; their folder is created if missing.
        size: height and width.
        colors: of the values; None for gray masks.
    """
    with ExitStack() as stack:
        masks: list[PngRows | TiffRows] = []
        for path in files:
            path.parent.mkdir(parents=True, exist_ok=True)
            kind = TiffRows if path.suffix == ".tif" else PngRows
            masks.append(kind(stack.enter_context(path.open("wb")), size, colors))
        for parts in rows:
            for mask, part in zip(masks, parts, strict=True):
                mask.write(part)
        for mask in masks:
            mask.finish()


class PngRows:
    """A PNG file (https://www.w3.org/TR/png-3) of this height and width, written from top to bottom."""

    def __init__(self, file: BinaryIO, size: tuple[int, int], colors: Colors) -> None:
        self._file, self._compressor = file, zlib.compressobj()
        file.write(b"\x89PNG\r\n\x1a\n")
        self._chunk(b"IHDR", struct.pack(">2I5B", size[1], size[0], 8, 3 if colors else 0, 0, 0, 0))
        if colors:
            self._chunk(b"PLTE", np.array(colors, dtype=np.uint8).tobytes())

    def write(self, rows: Mask) -> None:
        """Write the next rows (n, W)."""
        unfiltered = np.pad(rows, ((0, 0), (1, 0)))  # each row begins with its filter: none
        self._chunk(b"IDAT", self._compressor.compress(unfiltered.tobytes()))

    def finish(self) -> None:
        """Write the end of the file."""
        self._chunk(b"IDAT", self._compressor.flush())
        self._chunk(b"IEND", b"")

    def _chunk(self, name: bytes, data: bytes) -> None:
        self._file.write(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)))


class TiffRows:
    """A TIFF file (https://www.itu.int/itudoc/itu-t/com16/tiff-fx/docs/tiff6.pdf) of deflated strips; see `PngRows`."""

    def __init__(self, file: BinaryIO, size: tuple[int, int], colors: Colors) -> None:
        self._file, self._size, self._colors = file, size, colors
        self._is_big = size[0] * size[1] >= CLASSIC_LIMIT
        self._strips: list[tuple[int, int]] = []  # position and bytes
        self._waiting = np.empty((0, size[1]), dtype=np.uint8)
        file.write(self._header(0))

    def write(self, rows: Mask) -> None:
        """Write the next rows (n, W); those that do not fill a strip yet wait."""
        self._waiting = np.concatenate([self._waiting, rows])
        while len(self._waiting) >= STRIP:
            self._strip(STRIP)

    def finish(self) -> None:
        """Write the last strip and the tags, which the header then points to."""
        if len(self._waiting):
            self._strip(len(self._waiting))
        self._file.write(b"\0" * (-self._file.tell() % 8))
        position = self._file.tell()
        self._file.write(self._directory(position))
        self._file.seek(0)
        self._file.write(self._header(position))

    def _strip(self, rows: int) -> None:
        data = zlib.compress(self._waiting[:rows].tobytes())
        self._strips.append((self._file.tell(), len(data)))
        self._file.write(data)
        self._waiting = self._waiting[rows:]

    def _header(self, position: int) -> bytes:
        return (
            struct.pack("<2s3HQ", b"II", 43, 8, 0, position)
            if self._is_big
            else struct.pack("<2sHI", b"II", 42, position)
        )

    def _directory(self, position: int) -> bytes:
        """Return a count, an entry for each tag, the end of the list, and the values too long for an entry."""
        offset, room = (LONG8, 8) if self._is_big else (LONG, 4)
        tags: dict[int, tuple[str, Sequence[int]]] = {
            256: (LONG, [self._size[1]]),
            257: (LONG, [self._size[0]]),
            258: (SHORT, [8]),  # bits
            259: (SHORT, [8]),  # deflate
            262: (SHORT, [3 if self._colors else 1]),  # palette or gray
            273: (offset, [place for place, _ in self._strips]),
            278: (LONG, [STRIP]),
            279: (LONG, [count for _, count in self._strips]),
        }
        if self._colors:
            table = np.zeros((3, 256), dtype=int)
            table[:, : len(self._colors)] = np.array(self._colors).T * 257  # to 16 bit
            tags[320] = (SHORT, table.ravel().tolist())
        entries = struct.pack("<Q" if self._is_big else "<H", len(tags))
        behind, values = position + len(entries) + len(tags) * (4 + 2 * room) + room, b""
        for tag, (kind, numbers) in tags.items():
            data = struct.pack(f"<{len(numbers)}{kind[-1]}", *numbers)
            if len(data) > room:
                data, values = struct.pack(f"<{offset[-1]}", behind + len(values)), values + data
            entries += struct.pack(f"<HH{offset[-1]}{room}s", tag, int(kind[:-1]), len(numbers), data)
        return entries + bytes(room) + values
