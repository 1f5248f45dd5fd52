"""Colors of classes: a palette, masks painted with it, masks laid over images."""

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Color = tuple[int, int, int]
Pixels = NDArray[np.uint8]
Labels = Tensor | NDArray[np.integer]

IGNORED: Color = (150, 150, 150)

# a dark background, then colors that people with any color vision tell apart:
# Okabe and Ito 2008, https://jfly.uni-koeln.de/color/, and three of Paul Tol's, https://personal.sron.nl/~pault/
FIRST: tuple[Color, ...] = (
    (40, 44, 52),
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (204, 121, 167),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (136, 34, 85),
    (153, 153, 51),
    (51, 34, 136),
)


def palette(classes: int) -> list[Color]:
    """One color a class, the same for every call: dark for class 0, well apart for the rest.

    A longer palette begins with the shorter ones.

    Raises:
        ValueError: there are not 1 to 256 classes.

    >>> palette(2)
    [(40, 44, 52), (230, 159, 0)]
    """
    if not 1 <= classes <= 256:
        raise ValueError(f"a palette has 1 to 256 colors, asked for {classes}. Draw fewer classes at a time.")
    return list(_all_colors()[:classes])


def colorise(mask: Labels, colors: Sequence[Color], ignore_index: int = 255) -> Pixels:
    """Picture (H, W, 3), uint8, of class indices (H, W); ignored pixels in gray.

    Raises:
        ValueError: a label has no color and is not `ignore_index`.
    """
    labels = as_labels(mask)
    index = np.where(labels == ignore_index, len(colors), labels)
    if index.size and not 0 <= index.min() <= index.max() <= len(colors):
        stray = index.min() if index.min() < 0 else index.max()
        raise ValueError(f"the mask has label {stray}, but there are {len(colors)} colors. Give one color a class.")
    return np.array([*colors, IGNORED], dtype=np.uint8)[index]


def overlay(
    image: Pixels, mask: Labels, colors: Sequence[Color], alpha: float = 0.5, ignore_index: int = 255
) -> Pixels:
    """Picture (H, W, 3), uint8: the mask's colors over the image; ignored pixels show the image alone.

    Args:
        image: (H, W, 3), uint8.
        mask: class indices (H, W).
        colors: one a class.
        alpha: how opaque the colors are, 0..1.
        ignore_index: label of the pixels left as they are.
    """
    painted = colorise(mask, colors, ignore_index)
    blend = np.rint((1 - alpha) * image + alpha * painted).astype(np.uint8)
    return np.where((as_labels(mask) == ignore_index)[..., None], image, blend)


def as_labels(mask: Labels) -> NDArray[np.integer]:
    """Class indices as an array, from any device."""
    return np.asarray(mask.cpu() if isinstance(mask, Tensor) else mask)


@cache
def _all_colors() -> tuple[Color, ...]:
    """`FIRST`, then each time the color that looks farthest from all before it."""
    levels = np.arange(30, 256, 25)
    candidates = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 3)
    lab = _lab(candidates)
    # white, black and the gray of ignored pixels are taken
    taken = _lab(np.array([*FIRST, IGNORED, (255, 255, 255), (0, 0, 0)]))
    distance = np.linalg.norm(lab[:, None] - taken, axis=-1).min(axis=1)
    colors = list(FIRST)
    while len(colors) < 256:
        best = int(distance.argmax())
        colors.append(tuple(candidates[best].tolist()))
        distance = np.minimum(distance, np.linalg.norm(lab - lab[best], axis=-1))
    return tuple(colors)


def _lab(rgb: NDArray[np.integer]) -> NDArray[np.float64]:
    """Colors (N, 3) in sRGB, 0..255, as CIE L*a*b* (D65), where distance is roughly what the eye sees."""
    linear = np.where(rgb > 10, ((rgb / 255 + 0.055) / 1.055) ** 2.4, rgb / 255 / 12.92)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = linear @ np.array(to_xyz).T / [0.9505, 1.0, 1.089]
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)
