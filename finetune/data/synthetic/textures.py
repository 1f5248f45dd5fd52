"""Textured, lit surfaces for synthetic images."""

from collections.abc import Callable
from math import cos, pi, sin

import numpy as np
import numpy.typing as npt
from PIL import Image

Floats = npt.NDArray[np.float32]
Pattern = Callable[[np.random.Generator, int, int], Floats]


def surface(rng: np.random.Generator, height: int, width: int, pattern: Pattern) -> Floats:
    """Mix two colors by a pattern (H, W) of 0 to 1, and by blotches, to (H, W, 3) of 0 to 255."""
    one = rng.uniform(0, 255, 3).astype(np.float32)
    other = (one + rng.uniform(70, 185, 3).astype(np.float32)) % 255  # modulo 255, so never the same color
    blotches = _blotches(rng, height, width, int(rng.integers(3, 9)))
    mix = 0.8 * pattern(rng, height, width) + 0.2 * blotches
    return np.asarray(one + mix[..., None] * (other - one), dtype=np.float32)


def light(rng: np.random.Generator, height: int, width: int) -> Floats:
    """Return light that falls off across the image, (H, W, 1), around 1."""
    y, x = _axes(rng, height, width, 1.0)
    slope = rng.uniform(0, 0.45)
    return np.asarray(1 + slope * (x + y).clip(-1, 1), dtype=np.float32)[..., None]


def _axes(rng: np.random.Generator, height: int, width: int, waves: float) -> tuple[Floats, Floats]:
    """Return rotated coordinates (H, W) that span `waves` units across the shorter side."""
    angle, start = rng.uniform(0, 2 * pi), rng.uniform(0, 1)
    unit = waves / min(height, width)
    y = ((np.arange(height) - height / 2) * unit).astype(np.float32)[:, None]
    x = ((np.arange(width) - width / 2) * unit).astype(np.float32)
    return (
        np.asarray(y * cos(angle) + x * sin(angle) + start, dtype=np.float32),
        np.asarray(x * cos(angle) - y * sin(angle) + start, dtype=np.float32),
    )


def _blotches(rng: np.random.Generator, height: int, width: int, cells: int) -> Floats:
    """Return smooth noise (H, W) of 0 to 1 with `cells` cells per side."""
    coarse = Image.fromarray(rng.integers(0, 256, (cells, cells), dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32) / np.float32(255)


def _dots(rng: np.random.Generator, height: int, width: int) -> Floats:
    y, x = _axes(rng, height, width, rng.uniform(7, 14))
    return ((y % 1 - 0.5) ** 2 + (x % 1 - 0.5) ** 2 < 0.1).astype(np.float32)


def _checks(rng: np.random.Generator, height: int, width: int) -> Floats:
    y, x = _axes(rng, height, width, rng.uniform(7, 14))
    return ((np.floor(y) + np.floor(x)) % 2).astype(np.float32)


def _stripes(rng: np.random.Generator, height: int, width: int) -> Floats:
    y, _ = _axes(rng, height, width, rng.uniform(7, 14))
    return np.asarray(0.5 + 0.5 * np.sin(2 * pi * y), dtype=np.float32)


def _grain(rng: np.random.Generator, height: int, width: int) -> Floats:
    return _blotches(rng, height, width, int(rng.integers(24, 48)))


def _clouds(rng: np.random.Generator, height: int, width: int) -> Floats:
    return _blotches(rng, height, width, int(rng.integers(6, 16)))


def _bricks(rng: np.random.Generator, height: int, width: int) -> Floats:
    y, x = _axes(rng, height, width, rng.uniform(6, 14))
    shifted = x / 2 + 0.5 * (np.floor(y) % 2)
    return ((y % 1 < 0.2) | (shifted % 1 < 0.1)).astype(np.float32)


FILLS: tuple[Pattern, ...] = (_dots, _checks, _stripes, _bricks)  # of the classes from 1 on
GROUNDS: tuple[Pattern, ...] = (_grain, _clouds)
