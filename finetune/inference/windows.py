"""Predictions of images in windows, a few rows at a time, in memory that does not grow with their height."""

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor

from finetune.data.images.decode import MAX_PIXELS
from finetune.data.images.formats import has_windows, read_header
from finetune.data.images.reading import read_image
from finetune.data.images.value_range import ValueRange
from finetune.data.records import DataError
from finetune.data.window import Window
from finetune.inference.formats.format import Predicted
from finetune.inference.post import PostProcessing
from finetune.io.messages import shortlist
from finetune.models.blending import SlidingWindow, blend

logger = logging.getLogger(__name__)

LARGE = 4096 * 4096  # pixels of an image of which rows are read, predicted and written one after the other
OVERVIEW = 2048  # pixels of the longer side of its pictures
ReadRows = Callable[[slice], Tensor]  # rows of an image (C, n, W), uint8


def split_large(paths: Sequence[Path], window: SlidingWindow) -> tuple[list[Path], dict[Path, tuple[int, int]]]:
    """Return the files to read ahead as a whole, and the (height, width) of those too large for that; log how many.

    Files that are broken or not divided are among the first: they are reported when they are decoded.
    """
    if window.size is None:
        return list(paths), {}
    with ThreadPoolExecutor() as pool:
        sizes = dict(zip(paths, pool.map(_size, paths), strict=True))
    divided = {path: size for path, size in sizes.items() if size is not None and window.divides(size)}
    if divided:
        height, width = window.sides
        logger.info(
            f"{len(divided):,} of {len(paths):,} images are predicted in windows of {width} x {height} pixels (window)"
        )
    large = {path: size for path, size in divided.items() if size[0] * size[1] > LARGE}
    return [path for path in paths if path not in large], large


def check_large(large: Collection[Path], formats: Sequence[str], post: PostProcessing) -> None:
    """Raise DataError for what cannot be done where images are predicted row by row.

    Args:
        large: such images.
        formats: that need the whole prediction of an image.
        post: steps after the model.
    """
    wanted = [*formats, *post.steps]
    if large and wanted:
        raise DataError(
            f"{len(large):,} images, such as '{next(iter(large))}', have more than {LARGE:,} pixels and are predicted "
            f"row by row, but {shortlist(wanted)} would need the whole prediction. Leave it out, cut them, or "
            f"set window=null, which predicts whole images, if there is enough memory."
        )


def _size(path: Path) -> tuple[int, int] | None:
    try:
        return read_header(path, any_size=True).upright_size
    except DataError:
        return None


def predict_rows(
    logits: Callable[[Tensor], Tensor],
    decode: Callable[[Tensor], Tensor],
    read: ReadRows,
    size: tuple[int, int],
    window: SlidingWindow,
    batch_size: int = 1,
) -> Iterator[Tensor]:
    """Yield the prediction of an image from top to bottom, uint8 (..., n, W), on the CPU.

    Args:
        logits: of images (B, C, h, w), uint8.
        decode: predictions of logits (B, K, h, w), pixel by pixel.
        read: rows of the image; each is read once, in order.
        size: height and width of the image.
        window: of the windows.
        batch_size: windows that are predicted at a time.
    """
    rows, columns = window.spans(size)
    maps = (each for images in window_images(read, rows, columns, batch_size) for each in logits(images))
    finished: list[Tensor] = []
    for _, column, block in blend(maps, rows, columns):
        finished.append(decode(block[None])[0].cpu())
        if column.stop == size[1]:
            yield torch.cat(finished, dim=-1)
            finished = []


def window_images(read: ReadRows, rows: Sequence[slice], columns: Sequence[slice], batch_size: int) -> Iterator[Tensor]:
    """Yield the images of windows (n, C, h, w), row by row; the last of a row may be narrower and is alone then."""
    held, strip = rows[0], read(rows[0])
    for row in rows:
        if row != held:
            strip = torch.cat([strip[:, row.start - held.start :], read(slice(held.stop, row.stop))], dim=1)
            held = row
        for _, group in groupby(columns, key=lambda column: column.stop - column.start):
            alike = list(group)
            for first in range(0, len(alike), batch_size):
                yield torch.stack([strip[..., column] for column in alike[first : first + batch_size]])


def open_rows(path: Path, channels: int, value_range: ValueRange | None) -> ReadRows:
    """Return what reads rows of an image file, from which DataError may come; a file without parts is decoded at once.

    Args:
        path: of the image.
        channels: number of channels.
        value_range: as for `read_image`.

    Raises:
        DataError: the file cannot be read, or is too large to be decoded at once and cannot be read in parts.
    """
    if not has_windows(path):
        whole = read_image(path, channels, value_range)
        return lambda rows: whole[:, rows]
    _, width = read_header(path, any_size=True).upright_size

    def read(rows: slice) -> Tensor:
        part = Window(rows.start, 0, rows.stop - rows.start, width)
        if part.height * width > MAX_PIXELS:
            raise DataError(
                f"'{path}' is {width:,} pixels wide, and of {part.height:,} rows at most {MAX_PIXELS // part.height:,} "
                f"are read at once. Set a smaller window, or cut the image."
            )
        return read_image(path, channels, value_range, part)

    return read


class Overview:
    """Every n-th pixel of an image and of its prediction, for pictures of an image that is too large to be drawn.

    Args:
        path: of the image.
        read: rows of the image, which come in order.
        size: height and width of the image.
    """

    def __init__(self, path: Path, read: ReadRows, size: tuple[int, int]) -> None:
        self.step = -(-max(size) // OVERVIEW)
        self.path, self._read_rows = path, read
        self._image, self._prediction = Reduced(self.step), Reduced(self.step)

    def read(self, rows: slice) -> Tensor:
        """Return rows of the image (C, n, W), and keep some of their pixels."""
        return self._image.add(self._read_rows(rows))

    def add(self, rows: Tensor) -> Tensor:
        """Return rows of the prediction (..., n, W), and keep some of their pixels."""
        return self._prediction.add(rows)

    def whole(self) -> Predicted:
        """Return the image and its prediction at their reduced size."""
        return Predicted(self.path, self._image.whole(), self._prediction.whole().numpy())


class Reduced:
    """Keeps every n-th pixel of rows that pass, for an overview of an image that is too large to be drawn.

    Args:
        step: from one pixel to the next that is kept.
    """

    def __init__(self, step: int) -> None:
        self.step, self._seen = step, 0
        self._parts: list[Tensor] = []

    def add(self, rows: Tensor) -> Tensor:
        """Return the rows (..., n, W) that come next."""
        self._parts.append(rows[..., -self._seen % self.step :: self.step, :: self.step].clone())
        self._seen += rows.shape[-2]
        return rows

    def whole(self) -> Tensor:
        """Return what was kept (..., h, w)."""
        return torch.cat(self._parts, dim=-2)
