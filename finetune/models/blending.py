"""Predictions in overlapping windows, blended with Gaussian weights."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from finetune.models.feature_levels import COARSEST
from finetune.models.input_size import Size

AUTO = "auto"
AUTO_SIDE = 1024  # pixels of a window, three times the side of a usual training crop: little of it lies near its border
AUTO_PIXELS = 2048 * 2048  # of an image; what the default model takes for the whole of one is 2 GB in float32
MOST_AUTO_SIDE = 4096  # of a window, and of images that are predicted whole, under models that reduce them: 1 GB
OVERLAP = 0.25  # takes 1.8 times as long as no overlap; half, as in nnU-Net, takes 4 times as long
MOST_OVERLAP = 0.75
MIN_SIDE = 4 * COARSEST  # pixels, so that steps of `COARSEST` suffice for every overlap
SIGMAS_PER_SIDE = 8  # of the Gaussian: Isensee et al. 2021, https://doi.org/10.1038/s41592-020-01008-z


@dataclass(frozen=True)
class SlidingWindow:
    """The windows in which large images are predicted.

    Args:
        size: height and width in pixels, or one number for both; images larger than that are predicted in windows.
            `auto` for windows of 1024 pixels in images of more than 2048 x 2048 pixels; None for whole images.
        overlap: part of a window that the next one covers, too, at least; 0 to 0.75.
        reduce: factor by which the model reduces images. The windows of `auto`, and the images that it predicts whole,
            are that many times larger, up to 4096 x 4096 pixels.

    Raises:
        ValueError: values of another kind, or out of range.
    """

    size: int | Sequence[int] | str | None = None
    overlap: float = OVERLAP
    reduce: int = 1

    def __post_init__(self) -> None:
        least = MIN_SIDE * self.reduce
        if self.size not in (None, AUTO) and not all(type(side) is int and side >= least for side in self.sides):
            seen = f" (the model sees 1/{self.reduce} of them)" if self.reduce > 1 else ""
            raise ValueError(
                f"window={self.size}: expected a side of at least {least} pixels{seen}, [height,width], auto, or null "
                f"for whole images."
            )
        if type(self.overlap) not in (int, float) or not 0 <= self.overlap <= MOST_OVERLAP:
            raise ValueError(f"overlap={self.overlap}: expected a part of a window, from 0 to {MOST_OVERLAP}.")

    @property
    def sides(self) -> Size:
        """Height and width of a window."""
        pair: Any = self.size if isinstance(self.size, list | tuple) and len(self.size) == 2 else (self.size, self.size)
        auto = min(AUTO_SIDE * self.reduce, MOST_AUTO_SIDE)
        return (auto, auto) if self.size == AUTO else (pair[0], pair[1])

    def divides(self, size: Size) -> bool:
        """Return whether an image of this height and width is predicted in windows."""
        if self.size == AUTO:
            return size[0] * size[1] > min(AUTO_PIXELS * self.reduce**2, MOST_AUTO_SIDE**2)
        return self.size is not None and any(length > side for length, side in zip(size, self.sides, strict=True))

    def spans(self, size: Size) -> tuple[list[slice], list[slice]]:
        """Return the rows and the columns of the windows of an image that it divides, of this height and width."""
        rows, columns = (
            spans(length, side, self.overlap, COARSEST * self.reduce)
            for length, side in zip(size, self.sides, strict=True)
        )
        return rows, columns


def spans(length: int, side: int, overlap: float, unit: int = COARSEST) -> list[slice]:
    """Return the parts of a length that windows cover, evenly.

    They begin at multiples of a unit, the largest stride of a model, so that a window has the grid of feature maps that
    the whole image has; the last one is shorter by less than a unit for that.

    >>> [(part.start, part.stop) for part in spans(500, 256, 0.25)], spans(200, 256, 0.25)
    ([(0, 256), (128, 384), (256, 500)], [slice(0, 200, None)])
    """
    units = math.ceil(max(0, length - side) / unit)
    most = max(1, int(side * (1 - overlap)) // unit)  # units from one window to the next
    count = math.ceil(units / most)
    starts = [unit * (units * index // count) for index in range(count + 1)] if count else [0]
    return [slice(start, min(start + side, length)) for start in starts]


def gaussian_weights(parts: Sequence[slice]) -> list[Tensor]:
    """Return the weight of each pixel (n,) in each of the spans, float32; at each pixel of the length they sum to 1."""
    total = torch.zeros(parts[-1].stop, dtype=torch.float64)
    curves = []
    for part in parts:
        side = part.stop - part.start
        distance = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
        curves.append(torch.exp(-0.5 * (distance * SIGMAS_PER_SIDE / side) ** 2))
        total[part] += curves[-1]
    return [(curve / total[part]).float() for curve, part in zip(curves, parts, strict=True)]


def blend(
    windows: Iterable[Tensor], rows: Sequence[slice], columns: Sequence[slice]
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield the rows, the columns and the blended maps of blocks that cover an image once, each when it is finished.

    Two-dimensional Gaussians are products, so windows are weighted along each side. Kept are the parts of finished
    windows that overlap with the next row of windows, and with the next window.

    Args:
        windows: maps (..., h, w), row by row.
        rows: of the windows, from `spans`.
        columns: of the windows.

    Yields:
        Blocks from left to right, then from top to bottom, of the type of the maps.
    """
    maps, down, across = iter(windows), gaussian_weights(rows), gaussian_weights(columns)
    bottoms, rights = ([*(part.start for part in parts[1:]), parts[-1].stop] for parts in (rows, columns))
    above: list[Tensor | None] = [None] * len(columns)  # sums so far of what the next row of windows covers, too
    for row, row_weights, bottom in zip(rows, down, bottoms, strict=True):
        carried: Tensor | None = None
        for index, (column, column_weights, right) in enumerate(zip(columns, across, rights, strict=True)):
            window = next(maps)
            block = window * (row_weights[:, None] * column_weights).to(window)
            if carried is not None:
                block[..., : carried.shape[-1]] += carried
            block, carried = block.tensor_split((right - column.start,), dim=-1)
            if (last := above[index]) is not None:
                block[..., : last.shape[-2], :] += last
            finished, rest = block.tensor_split((bottom - row.start,), dim=-2)
            above[index] = rest.clone()  # not a view, which would keep the whole window
            yield slice(row.start, bottom), slice(column.start, right), finished


def blend_windows(predict: Callable[[Tensor], list[Tensor]], images: Tensor, window: SlidingWindow) -> list[Tensor]:
    """Return the predictions for whole images, computed in windows.

    Args:
        predict: returns maps (B, C, h, w) for images (B, C', h, w).
        images: (B, C', H, W).
        window: that divides them.
    """
    height, width = images.shape[-2:]
    rows, columns = window.spans((height, width))
    maps = (torch.stack(predict(images[..., row, column])) for row in rows for column in columns)
    blended = images.new_empty(0)
    for row, column, block in blend(maps, rows, columns):
        blended = blended if blended.numel() else block.new_empty(*block.shape[:-2], height, width)
        blended[..., row, column] = block
    return list(blended)
