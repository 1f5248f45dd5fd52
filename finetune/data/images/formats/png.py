"""PNG files; color of 16 bit is decoded by torchvision, as Pillow keeps 8 of them without a word."""

from pathlib import Path

import numpy as np

from finetune.data.images.formats import pillow
from finetune.data.images.pixels import Header, Pixels, upright

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GRAY, GRAY_ALPHA = 0, 4  # color types


def recognizes(start: bytes) -> bool:
    """Return whether a file is a PNG."""
    return start.startswith(SIGNATURE)


def header(path: Path) -> Header:
    """Return the contents of a file without decoding its pixels."""
    found, color_type = pillow.header(path), _deep_color_type(path)
    if color_type is None:
        return found
    colors = 1 if color_type == GRAY_ALPHA else 3
    return Header(found.height, found.width, colors, found.alpha, np.dtype(np.uint16), found.orientation)


def pixels(path: Path) -> Pixels:
    """Decode a file with as many bits as it has."""
    if _deep_color_type(path) is None:
        return pillow.pixels(path)
    from torchvision.io import ImageReadMode, decode_image, read_file  # only few files need it

    found = header(path)
    values = decode_image(read_file(str(path)), mode=ImageReadMode.UNCHANGED).permute(1, 2, 0).numpy()
    return Pixels(upright(values, found.orientation), values.shape[2] in (2, 4))


def _deep_color_type(path: Path) -> int | None:
    """Return the color type of a file with 16 bit, unless it is gray, which Pillow reads as it is."""
    with path.open("rb") as file:
        start = file.read(26)
    return start[25] if len(start) == 26 and start[24] == 16 and start[25] != GRAY else None
