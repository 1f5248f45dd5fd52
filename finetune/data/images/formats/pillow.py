"""Files that Pillow decodes: JPEG, PNG, TIFF, WebP, BMP, GIF (its first frame), PPM, JPEG 2000."""

from pathlib import Path

import numpy as np
from PIL import Image

from finetune.data.images.decode import FORMATS, ORIENTATION, SIXTEEN_BIT, check_size, open_image
from finetune.data.images.pixels import Array, Header, Pixels

GRAY = ("1", "L", "LA", "La", "I", "F", *SIXTEEN_BIT)


def recognizes(start: bytes) -> bool:
    """Return True: what nothing else recognizes is left to Pillow."""
    return True


def header(path: Path) -> Header:
    """Return the contents of a file without decoding its pixels."""
    with path.open("rb") as file, Image.open(file, formats=FORMATS) as image:
        check_size(image.width, image.height, path)
        is_late = image.format == "PNG" and "exif" not in image.info  # then Pillow would decode the pixels to find it
        orientation = 1 if is_late else image.getexif().get(ORIENTATION, 1)
        is_turned = image.format == "TIFF" and orientation in (5, 6, 7, 8)  # Pillow says the size of the upright image
        height, width = image.size if is_turned else image.size[::-1]
        colors = 1 if image.mode in GRAY else 3
        return Header(height, width, colors, _has_alpha(image), _dtype(image.mode), orientation)


def pixels(path: Path) -> Pixels:
    """Decode a file; see `image_pixels`."""
    return image_pixels(open_image(path))


def reduced(path: Path, factor: int) -> Pixels:
    """Decode a JPEG at 1/factor of its size, from fewer of its frequencies; other formats as they are."""
    return image_pixels(open_image(path, factor))


def image_pixels(image: Image.Image) -> Pixels:
    """Return the pixels of a decoded image; palettes, CMYK and others become RGB."""
    alpha = _has_alpha(image)
    if image.mode in GRAY:
        mode = "LA" if alpha else image.mode if _dtype(image.mode) != np.uint8 else "L"
    else:
        mode = "RGBA" if alpha else "RGB"
    # neither a conversion to the same mode nor an array of one's own: Pillow copies for both
    return Pixels(_three_axes(np.asarray(image if image.mode == mode else image.convert(mode))), alpha)


def _has_alpha(image: Image.Image) -> bool:
    """Return whether an image has transparency, without that of deep gray images, whose values Pillow would clip."""
    return bool(image.has_transparency_data) and not (image.mode in GRAY and _dtype(image.mode) != np.uint8)


def _dtype(mode: str) -> np.dtype[np.generic]:
    kinds: dict[str, type[np.generic]] = {"I": np.int32, "F": np.float32}
    return np.dtype(kinds.get(mode, np.uint16 if mode in SIXTEEN_BIT else np.uint8))


def _three_axes(values: Array) -> Array:
    return values[..., None] if values.ndim == 2 else values
