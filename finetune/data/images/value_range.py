"""Which values of images with more than 8 bit become black and white."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from finetune.data.images.pixels import Array, Pixels
from finetune.data.records import DataError

# the values of black and white, for all bands or for each
ValueRange = Sequence[float] | Sequence[Sequence[float]]

PERCENTILES = (0.001, 0.999)  # as fractions
LOWEST, HIGHEST = -(2**15), 2**16 - 1  # integers that are counted one by one
TABLE_TYPES = ("uint16", "int16")


def value_pairs(value_range: ValueRange) -> list[tuple[float, float]]:
    """Return (black, white) of all bands, or of each.

    >>> value_pairs([0, 4095]), value_pairs([[0, 1], [-5, 5]])
    ([(0, 4095)], [(0, 1), (-5, 5)])

    Raises:
        ValueError: it is neither two numbers nor a list of such pairs, or black is not below white.
    """
    rows: list[Any] = list(value_range) if isinstance(value_range, Sequence) else [None]
    pairs = rows if rows and all(isinstance(row, Sequence) for row in rows) else [rows]
    if any(isinstance(pair, str) or not _is_pair(pair) for pair in pairs):
        raise ValueError(
            f"value_range={value_range}: expected [low,high], the values that become black and white, or a list of "
            f"such pairs with one for each band."
        )
    return [(pair[0], pair[1]) for pair in pairs]


def _is_pair(pair: Sequence[Any]) -> bool:
    numbers = [n for n in pair if isinstance(n, int | float) and not isinstance(n, bool) and np.isfinite(n)]
    return len(pair) == len(numbers) == 2 and numbers[0] < numbers[1]


def eight_bit(pixels: Pixels, value_range: ValueRange | None, name: str) -> Pixels:
    """Map pixels linearly to 0 to 255, rounded and clipped; 8-bit pixels stay as they are, and NaN becomes 0.

    Alpha goes from 0 to the highest value of its type, or to 1.0, unless there is a pair for it.

    Args:
        pixels: of any type.
        value_range: the values of black and white; None for 8-bit pixels only.
        name: of the image in messages, such as `image 'photos/7.jpg'`.

    Raises:
        DataError: the pixels have more than 8 bit and there is no range, or one for another number of bands.
    """
    values, bands = pixels.values, pixels.values.shape[2]
    if values.dtype == np.uint8:
        return pixels
    if value_range is None:
        raise DataError(
            f"{name} holds {depth(values.dtype)} values, but nothing says which of them become black and white. Save "
            f"it with 8 bit, or set data.value_range=[low,high] (value_range=[low,high] for finetune predict)."
        )
    pairs = value_pairs(value_range)
    pairs = pairs * pixels.colors if len(pairs) == 1 else pairs
    if len(pairs) == pixels.colors and pixels.alpha:
        pairs = [*pairs, (0, pixels.opaque)]
    if len(pairs) != bands:
        raise DataError(f"{name} has {bands} bands, but value_range has {len(pairs)} pairs. Give one for each band.")
    if len(set(pairs)) == 1:
        return Pixels(_mapped(values, *pairs[0]), pixels.alpha)
    mapped = [_mapped(values[..., band], *pair) for band, pair in enumerate(pairs)]
    return Pixels(np.stack(mapped, axis=2), pixels.alpha)


def _mapped(values: Array, low: float, high: float) -> Array:
    if values.dtype.name in TABLE_TYPES:  # five times as fast as arithmetic
        return _table(values.dtype.name, low, high)[values.view(np.uint16)]
    return _scaled(values, low, high)


@lru_cache(maxsize=64)
def _table(dtype: str, low: float, high: float) -> Array:
    """Return the 8-bit value of every 16-bit one, at its position as an unsigned number."""
    return _scaled(np.arange(2**16, dtype=np.uint16).view(dtype), low, high)


def _scaled(values: Array, low: float, high: float) -> Array:
    scaled = (values.astype(np.float64) - low) * (255 / (high - low))
    return np.where(np.isnan(scaled), 0, np.rint(np.clip(scaled, 0, 255))).astype(np.uint8)


def depth(dtype: np.dtype[Any]) -> str:
    """Return a type in words.

    >>> depth(np.dtype(np.uint16)), depth(np.dtype(np.float64))
    ('16-bit', '64-bit floating-point')
    """
    return f"{8 * dtype.itemsize}-bit" + (" floating-point" if dtype.kind == "f" else "")


class RangeFinder:
    """Finds the range of the values in a set of images, image by image.

    It goes from the 0.1 to the 99.9 percentile of all pixels, so that a few hot or dead pixels do not decide it.
    Integers from -32,768 to 65,535 are counted one by one. For other numbers it goes from the lowest to the highest of
    these percentiles of single images, or of parts of large ones, over finite numbers. Gray and the three bands of RGB
    share one range; other bands have one each.

    Args:
        colors: number of bands without alpha.
    """

    def __init__(self, colors: int) -> None:
        self.groups = 1 if colors in (1, 3) else colors
        self.counts = np.zeros((self.groups, HIGHEST - LOWEST + 1), dtype=np.int64)
        self.outside: list[list[tuple[float, float]]] = [[] for _ in range(self.groups)]

    def add(self, pixels: Pixels) -> None:
        """Count the pixels of an image."""
        colors = pixels.values[..., : pixels.colors]
        for group, values in enumerate(colors.reshape(-1, self.groups).T if self.groups > 1 else [colors.ravel()]):
            if values.dtype.kind in "ui" and values.min() >= LOWEST and values.max() <= HIGHEST:
                self.counts[group] += np.bincount(values.astype(np.int64) - LOWEST, minlength=HIGHEST - LOWEST + 1)
                continue
            finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
            if finite.size:
                low, high = np.quantile(finite, PERCENTILES, method="inverted_cdf")
                self.outside[group].append((_shortest(low), _shortest(high)))

    def found(self) -> ValueRange | None:
        """Return the range of all images; None if none had a finite value."""
        pairs = [_pair(counts, outside) for counts, outside in zip(self.counts, self.outside, strict=True)]
        if not all(pairs):
            return None
        return pairs[0] if len(pairs) == 1 else [pair for pair in pairs if pair]


def _shortest(number: np.number[Any]) -> float:
    """Return a number with no more digits than its type has.

    >>> _shortest(np.float32(0.1)), _shortest(np.int32(5))
    (0.1, 5)
    """
    return float(str(number)) if np.issubdtype(number.dtype, np.floating) else int(number)


def _pair(counts: Array, outside: Iterable[tuple[float, float]]) -> list[float] | None:
    ends = [*outside, *([_percentiles(counts)] if counts.any() else [])]
    if not ends:
        return None
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    return [low, high if high > low else low + 1]


def _percentiles(counts: Array) -> tuple[int, int]:
    """Return the lowest values with at least these fractions of the pixels at or below them."""
    low, high = np.searchsorted(counts.cumsum(), np.ceil(np.array(PERCENTILES) * counts.sum()))
    return int(low) + LOWEST, int(high) + LOWEST
