"""A writer of uncompressed TIFF files with any number of bands and bits, which Pillow does not write."""

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

SHORT, LONG = "H", "I"
CODES = {SHORT: 3, LONG: 4}


def write_tiff(
    path: Path,
    pixels: np.ndarray,
    photometric: int = 1,
    extra: Sequence[int] = (),
    order: str = "<",
    separate: bool = False,
    orientation: int = 1,
) -> Path:
    """Write pixels (H, W) or (H, W, bands), and return the path.

    Args:
        path: of the file.
        pixels: of any integer or floating-point type.
        photometric: 1 is gray, 2 is RGB.
        extra: kind of each band beyond those of `photometric`: 0 unknown, 1 premultiplied alpha, 2 alpha.
        order: of the bytes, `<` or `>`.
        separate: whether one band follows the other, instead of one pixel the other.
        orientation: that of EXIF.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width, bands = (*pixels.shape, 1)[:3]
    pixels = pixels.reshape(height, width, bands)
    planes = [pixels[..., band] for band in range(bands)] if separate else [pixels]
    data = [np.ascontiguousarray(plane).astype(pixels.dtype.newbyteorder(order)).tobytes() for plane in planes]
    tags: list[tuple[int, str, list[int]]] = [
        (256, LONG, [width]),
        (257, LONG, [height]),
        (258, SHORT, [8 * pixels.itemsize] * bands),
        (259, SHORT, [1]),
        (262, SHORT, [photometric]),
        (273, LONG, [0] * len(data)),
        (274, SHORT, [orientation]),
        (277, SHORT, [bands]),
        (278, LONG, [height]),
        (279, LONG, [len(part) for part in data]),
        (284, SHORT, [2 if separate else 1]),
        *([(338, SHORT, list(extra))] if extra else []),
        (339, SHORT, [{"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]] * bands),
    ]
    end = 8 + 2 + 12 * len(tags) + 4
    first = end + sum(_outside(kind, values) for _, kind, values in tags)
    starts = [first + sum(map(len, data[:index])) for index in range(len(data))]
    rows, outside = b"", b""
    for tag, kind, values in tags:
        packed = struct.pack(f"{order}{len(values)}{kind}", *(starts if tag == 273 else values))
        if _outside(kind, values):
            packed, outside = struct.pack(f"{order}I", end + len(outside)), outside + packed
        rows += struct.pack(f"{order}HHI", tag, CODES[kind], len(values)) + packed.ljust(4, b"\0")
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HIH", 42, 8, len(tags))
    path.write_bytes(head + rows + struct.pack(f"{order}I", 0) + outside + b"".join(data))
    return path


def _outside(kind: str, values: Sequence[int]) -> int:
    """Return the bytes that values take outside of their row; 0 if they fit into it."""
    size = len(values) * struct.calcsize(kind)
    return size if size > 4 else 0
