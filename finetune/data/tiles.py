"""Tiles of images that are too large to be taken whole."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import Tensor

from finetune.data.dataset import nearest_positions, same_shape, size_mismatch
from finetune.data.files import ImageFile
from finetune.data.images.decode import MAX_PIXELS
from finetune.data.images.formats import has_windows
from finetune.data.records import DataError, Record, Target
from finetune.data.window import Window, grid

TileSize = int | tuple[int, int]  # of one side, or height and width
MOST_TILES = 100_000  # of one image; a file may claim any size


@runtime_checkable
class WindowedTarget(Protocol):
    """A target of which parts can be read."""

    def read_size(self) -> tuple[int, int]:
        """Return the height and width."""

    def read_window(self, window: Window) -> Tensor:
        """Return a part as uint8, as `Target.read` returns the whole."""


@dataclass(frozen=True)
class ImageTile:
    """A part of an image file."""

    whole: ImageFile
    window: Window

    @property
    def paths(self) -> tuple[Path, ...]:
        """The file."""
        return self.whole.paths

    @property
    def description(self) -> str:
        """Text for messages."""
        return f"{self.whole.description} {self.window.text}"

    def read(self, channels: int = 3) -> Tensor:
        """Decode the part as uint8 (channels, height, width)."""
        return self.whole.read_window(self.window, channels)


@dataclass(frozen=True)
class TargetTile:
    """A part of a target.

    Attributes:
        whole: the target.
        window: in pixels of the image.
        image: the image.
        size: height and width of the image.
    """

    whole: Target
    window: Window
    image: ImageFile
    size: tuple[int, int]

    @property
    def paths(self) -> tuple[Path, ...]:
        """Files of the target."""
        return self.whole.paths

    @property
    def description(self) -> str:
        """Text for messages."""
        return f"{self.whole.description} {self.window.text}"

    def read(self) -> Tensor:
        """Return the part as uint8 (..., height, width).

        A target of another size than the image but of its shape is resized by nearest neighbor.

        Raises:
            DataError: the target cannot be decoded, or has another shape than the image.
        """
        if not isinstance(self.whole, WindowedTarget):
            whole = self.whole.read()
            rows, columns = self._positions((whole.shape[-2], whole.shape[-1]))
            return whole[..., rows[:, None], columns]
        rows, columns = self._positions(self.whole.read_size())
        top, left = int(rows[0]), int(columns[0])
        part = self.whole.read_window(Window(top, left, int(rows[-1]) + 1 - top, int(columns[-1]) + 1 - left))
        return part[..., rows[:, None] - top, columns - left]

    def _positions(self, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return the rows and columns of a target of some size that the window takes."""
        if size != self.size and not same_shape(self.size, size):
            raise size_mismatch(self.image.description, self.size, self.whole.description, size)
        rows, columns = (
            nearest_positions(part.start, part.stop, length, before)
            for part, length, before in zip((self.window.rows, self.window.columns), self.size, size, strict=True)
        )
        return rows, columns


def check_tiles(tiles: TileSize) -> None:
    """Raise ValueError unless tiles have at least one pixel and no more than are decoded at once."""
    height, width = sides(tiles)
    if min(height, width) < 1 or height * width > MAX_PIXELS:
        raise ValueError(f"tiles={tiles}: expected a size in pixels, such as 2048 or [1024,2048], or null.")


def sides(tiles: TileSize) -> tuple[int, int]:
    """Return height and width.

    >>> sides(2048), sides((1024, 2048))
    ((2048, 2048), (1024, 2048))
    """
    return (tiles, tiles) if isinstance(tiles, int) else (tiles[0], tiles[1])


def with_tiles(records: Sequence[Record], tiles: TileSize) -> list[list[Record]]:
    """Return the tiles of each record; one that needs none, or cannot be read, is alone as it is.

    The tiles of an image cover each pixel once. They have its split and its group, or are a group of their own.

    Args:
        records: of image files.
        tiles: largest size of a tile, as one number or as height and width.

    Raises:
        DataError: an image is no file, or would have too many tiles.
    """
    with ThreadPoolExecutor() as pool:  # as many files may have to be opened
        return list(pool.map(lambda record: _tiles(record, sides(tiles)), records))


def _tiles(record: Record, tile: tuple[int, int]) -> list[Record]:
    image, target = record.image, record.target
    if not isinstance(image, ImageFile):
        raise DataError(f"{image.description} is not a file, and only image files have tiles. Set data.tiles=null.")
    try:
        size = image.read_size()
    except DataError:  # it is reported with all others when everything is read
        return [record]
    if size[0] <= tile[0] and size[1] <= tile[1]:
        return [record]
    if (count := -(-size[0] // tile[0]) * -(-size[1] // tile[1])) > MOST_TILES:
        raise DataError(
            f"{image.description} claims to have {size[1]:,} x {size[0]:,} pixels: {count:,} tiles, of which at most "
            f"{MOST_TILES:,} are taken. Raise data.tiles."
        )
    return [
        replace(
            record,
            name=f"{record.name}{window.text}",
            image=ImageTile(image, window),
            target=None if target is None else TargetTile(target, window, image, size),
            group=record.group or record.name,
        )
        for window in grid(size, tile)
    ]


def describe_tiles(tiled: Sequence[Sequence[Record]], tiles: TileSize) -> list[str]:
    """Return lines about the images that were taken as tiles, if there are any."""
    cut = [parts for parts in tiled if isinstance(parts[0].image, ImageTile)]
    if not cut:
        return []
    height, width = sides(tiles)
    slow = sum(not has_windows(parts[0].image.paths[0]) for parts in cut)
    lines = [
        f"{len(cut):,} of {len(tiled):,} images are larger than {height}x{width} pixels and are taken as "
        f"{sum(map(len, cut)):,} tiles (data.tiles)"
    ]
    if slow:
        lines.append(f"{slow:,} of them are decoded as a whole for each tile; a tiled TIFF is read in parts")
    return lines
