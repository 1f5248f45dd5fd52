"""Colors of classes: a palette, colored masks, and masks overlaid on images."""

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Color = tuple[int, int, int]
Pixels = NDArray[np.uint8]
Labels = Tensor | NDArray[np.integer]

IGNORED: Color = (150, 150, 150)

# a dark background, then colors that people with any color vision can distinguish:
# Okabe and Ito 2008, https://jfly.uni-koeln.de/color/, and three by Paul Tol, https://personal.sron.nl/~pault/
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
    """Return one color per class: dark for class 0, clearly different colors for the others.

    The colors are always the same, and a longer palette begins with the shorter ones.

    Raises:
        ValueError: the number of classes is not from 1 to 256.

    >>> palette(2)
    [(40, 44, 52), (230, 159, 0)]
    """
    if not 1 <= classes <= 256:
        raise ValueError(f"a palette has 1 to 256 colors, got {classes} classes. Draw fewer classes at a time.")
    return list(_all_colors()[:classes])


def colorize(mask: Labels, colors: Sequence[Color], ignore_index: int = 255) -> Pixels:
    """Return an image (H, W, 3), uint8, of class indices (H, W); ignored pixels are gray.

    Raises:
        ValueError: a label is not `ignore_index` and has no color.
    """
    labels = as_labels(mask)
    index = np.where(labels == ignore_index, len(colors), labels)
    unknown = index[(index < 0) | (index > len(colors)) | ((index == len(colors)) & (labels != ignore_index))]
    if unknown.size:
        raise ValueError(
            f"the mask has label {unknown[0]}, but there are {len(colors)} colors. Give one color per class."
        )
    return np.array([*colors, IGNORED], dtype=np.uint8)[index]


def overlay(
    image: Pixels, mask: Labels, colors: Sequence[Color], alpha: float = 0.5, ignore_index: int = 255
) -> Pixels:
    """Return an image (H, W, 3), uint8, with the colors of the mask over it; ignored pixels are not colored.

    Args:
        image: (H, W, 3), uint8.
        mask: class indices (H, W).
        colors: one color per class.
        alpha: opacity of the colors, 0..1.
        ignore_index: label of the ignored pixels.
    """
    colored = colorize(mask, colors, ignore_index)
    blend = np.rint((1 - alpha) * image + alpha * colored).astype(np.uint8)
    return np.where((as_labels(mask) == ignore_index)[..., None], image, blend)


def as_labels(mask: Labels) -> NDArray[np.integer]:
    """Return class indices as an array, from any device."""
    return np.asarray(mask.cpu() if isinstance(mask, Tensor) else mask)


@cache
def _all_colors() -> tuple[Color, ...]:
    """Return `FIRST`, followed each time by the color that looks most different from all colors before it."""
    levels = np.arange(30, 256, 25)
    candidates = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 3)
    lab = _lab(candidates)
    # white, black and the gray of ignored pixels are excluded too
    excluded = _lab(np.array([*FIRST, IGNORED, (255, 255, 255), (0, 0, 0)]))
    distance = np.linalg.norm(lab[:, None] - excluded, axis=-1).min(axis=1)
    colors = list(FIRST)
    while len(colors) < 256:
        best = int(distance.argmax())
        colors.append(tuple(candidates[best].tolist()))
        distance = np.minimum(distance, np.linalg.norm(lab - lab[best], axis=-1))
    return tuple(colors)


def _lab(rgb: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return sRGB colors (N, 3), 0..255, as CIE L*a*b* (D65), where distances roughly match perceived differences."""
    linear = np.where(rgb > 10, ((rgb / 255 + 0.055) / 1.055) ** 2.4, rgb / 255 / 12.92)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = linear @ np.array(to_xyz).T / [0.9505, 1.0, 1.089]
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)
