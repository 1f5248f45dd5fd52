"""The pixels of an image file, and how they become the channels that a model takes."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune.data.records import DataError

Array = npt.NDArray[Any]
BYTE = np.dtype(np.uint8)


@dataclass(frozen=True)
class Header:
    """The contents of an image file, as far as they are known without its pixels.

    Attributes:
        height: pixels, as stored.
        width: pixels, as stored.
        colors: bands without alpha: 1 (gray), 3 (RGB), or any other number.
        alpha: whether one more band is transparency.
        dtype: of the pixels.
        orientation: that of EXIF, 1 to 8; 1 is upright.
    """

    height: int
    width: int
    colors: int
    alpha: bool = False
    dtype: np.dtype[Any] = BYTE
    orientation: int = 1

    @property
    def is_deep(self) -> bool:
        """Whether the pixels need a value range to become 8-bit."""
        return self.dtype != BYTE

    @property
    def upright_size(self) -> tuple[int, int]:
        """Height and width once the orientation is applied."""
        return (self.width, self.height) if self.orientation in (5, 6, 7, 8) else (self.height, self.width)

    @property
    def may_be_turned_unnoticed(self) -> bool:
        """Whether a mask of the picture as stored would have the size of the upright picture, too."""
        return self.orientation in (2, 3, 4) or (self.orientation != 1 and self.height == self.width)


@dataclass(frozen=True)
class Pixels:
    """A decoded image.

    Attributes:
        values: (H, W, bands), upright.
        alpha: whether the last band is transparency.
    """

    values: Array
    alpha: bool = False

    @property
    def colors(self) -> int:
        """Bands without alpha."""
        return int(self.values.shape[2]) - self.alpha

    @property
    def opaque(self) -> float:
        """Value of an alpha that lets nothing through."""
        dtype = self.values.dtype
        return 1.0 if dtype.kind == "f" else float(np.iinfo(dtype).max)

    @property
    def is_opaque(self) -> bool:
        """Whether no pixel is transparent."""
        return not self.alpha or bool((self.values[..., -1] >= self.opaque).all())


def upright(values: Array, orientation: int) -> Array:
    """Apply an EXIF orientation, 1 to 8, to pixels (H, W, ...); others count as 1.

    >>> upright(np.array([[1, 2, 3]]), 6).tolist()
    [[1], [2], [3]]
    """
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return values[:, ::-1] if orientation in (2, 3, 6, 7) else values


def fits(colors: int, alpha: bool, channels: int) -> bool:
    """Return whether `with_channels` can make a number of channels from an image.

    >>> [n for n in range(1, 6) if fits(1, False, n)], [n for n in range(1, 6) if fits(3, True, n)]
    ([1, 3], [1, 3, 4])
    """
    return channels == colors or {channels, colors} == {1, 3} or (alpha and _has_room_for_alpha(colors, channels))


def with_channels(pixels: Pixels, channels: int, name: str) -> Array:
    """Return pixels (H, W, channels): gray is repeated for RGB, and RGB becomes its luma.

    Args:
        pixels: uint8.
        channels: number of channels; alpha is kept if there is one for it, such as the fourth, and dropped otherwise.
        name: of the image in messages, such as `image 'photos/7.jpg'`.

    Raises:
        DataError: the image has another number of bands.
    """
    values, colors = pixels.values, pixels.colors
    if not fits(colors, pixels.alpha, channels):
        raise DataError(
            f"{name} has {_bands(colors, pixels.alpha)}, but the model takes {channels} channels. "
            f"Use images with the same bands; a training takes them from the images with backbone.in_channels=auto."
        )
    color = values[..., :colors]
    if (channels, colors) == (1, 3):
        return _luma(color)
    if (channels, colors) in ((3, 1), (4, 1)):
        color = np.repeat(color, 3, axis=2)
    return np.concatenate([color, values[..., -1:]], axis=2) if _has_room_for_alpha(colors, channels) else color


def _has_room_for_alpha(colors: int, channels: int) -> bool:
    return channels == colors + 1 or (channels, colors) == (4, 1)


def _luma(values: Array) -> Array:
    """Return gray (H, W, 1) from RGB, rounded as Pillow does."""
    weights = np.array([19595, 38470, 7471], dtype=np.uint32)  # 0.299, 0.587, 0.114 in 16 bit
    return ((values.astype(np.uint32) @ weights + 0x8000) >> 16).astype(np.uint8)[..., None]


def _bands(colors: int, alpha: bool) -> str:
    return f"{colors + alpha} band{'s' * (colors + alpha > 1)}" + (", the last of them alpha" if alpha else "")
