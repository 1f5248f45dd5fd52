"""Histogram equalization of small parts of an image, with limited contrast (CLAHE)."""

import torch
from torch import Tensor


def clahe(image: Tensor, limit: float = 2.0, tiles: int = 8) -> Tensor:
    """Equalize each channel with a table for each part of the image; in between, the tables are interpolated.

    A table is the cumulative histogram of its part, of which each bin is first cut at the limit; what is cut is spread
    evenly over all bins.

    Args:
        image: uint8 (C, H, W).
        limit: largest value of a bin, in means of the histogram; 1 hardly changes the image.
        tiles: parts in each direction; fewer if there are fewer pixels.

    Returns:
        uint8 (C, H, W).

    Source: Zuiderveld 1994, Contrast limited adaptive histogram equalization, Graphics Gems IV.
    """
    height, width = image.shape[1:]
    rows, columns = min(tiles, height), min(tiles, width)
    (top, down), (left, across) = _between(height, rows), _between(width, columns)
    # int32 indices: half the time of int64
    part = _part(height, rows)[:, None] * (columns * 256) + _part(width, columns) * 256
    first = top[:, None] * (columns * 256) + left * 256
    equalized = torch.empty_like(image)
    for source, result in zip(image, equalized, strict=True):
        table = _tables((part + source).view(-1), rows * columns, limit).view(rows, columns, 256)
        index = (first + source).view(-1)
        here, beside, under, diagonal = (corner.index_select(0, index).view_as(source) for corner in _corners(table))
        upper, lower = torch.lerp(here, beside, across), torch.lerp(under, diagonal, across)
        result.copy_(torch.lerp(upper, lower, down[:, None]).round_())
    return equalized


def _tables(binned: Tensor, parts: int, limit: float) -> Tensor:
    """Return the new value of each value in each part, float32 (parts, 256).

    Args:
        binned: 256 times the part of each pixel, plus its value.
        parts: their number.
        limit: see `clahe`.
    """
    counts = torch.bincount(binned, minlength=parts * 256).view(parts, 256).float()
    pixels = counts.sum(1, keepdim=True)
    cut = counts.minimum(limit * pixels / 256)
    spread = cut + (pixels - cut.sum(1, keepdim=True)) / 256
    return spread.cumsum(1) / pixels * 255


def _corners(tables: Tensor) -> list[Tensor]:
    """Return the tables of each part, of the next one across, of the next one down, and of both, flattened."""
    across = torch.cat([tables[:, 1:], tables[:, -1:]], dim=1)
    pairs = [tables, across, *(torch.cat([pair[1:], pair[-1:]]) for pair in (tables, across))]
    return [pair.reshape(-1) for pair in pairs]


def _part(size: int, parts: int) -> Tensor:
    """Return the part of each pixel, int32 (size,)."""
    return torch.arange(size, dtype=torch.int32) * parts // size


def _between(size: int, parts: int) -> tuple[Tensor, Tensor]:
    """Return for each pixel the part whose center is before it, and how far the next one's is: 0 here, 1 there."""
    position = ((torch.arange(size, dtype=torch.float32) + 0.5) * parts / size - 0.5).clamp(0, parts - 1)
    before = position.floor()
    return before.int(), position - before
