"""Synthetic images: a data set without files."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from finetune.data.images.pixels import Pixels, with_channels
from finetune.data.options import check_ignore_index
from finetune.data.records import Record
from finetune.data.splitting.split_names import SPLITS
from finetune.data.synthetic.drawing import CLASS_NAMES, draw

MIN_SIZE = 16  # pixels; shapes of smaller images vanish


class SyntheticSource:
    """Textured shapes that are drawn when they are read.

    Every image is a pure function of (seed, split, index): a larger count only adds images, and the splits share none.

    Args:
        count: number of training images; validation and test have a quarter as many each.
        size: height and width, or (height, width), pixels.
        seed: of the images.
        ignore_index: label for pixels that a transform uncovers; the masks do not hold it.
    """

    class_names = CLASS_NAMES

    def __init__(
        self, count: int = 200, size: int | Sequence[int] = 128, seed: int = 0, ignore_index: int = 255
    ) -> None:
        sides = [size, size] if isinstance(size, int) else list(size)
        if count < 1:
            raise ValueError(f"count={count}: expected 1 training image or more.")
        if len(sides) != 2 or any(type(side) is not int or side < MIN_SIZE for side in sides):
            raise ValueError(f"size={size}: expected {MIN_SIZE} pixels or more, or [height, width] of such numbers.")
        if seed < 0:
            raise ValueError(f"seed={seed}: expected 0 or more.")
        check_ignore_index(ignore_index)
        self.count = count
        self.size = (sides[0], sides[1])
        self.seed = seed
        self.ignore_index = ignore_index

    def records(self) -> list[Record]:
        """Return the records of the three splits."""
        counts = dict.fromkeys(SPLITS, max(1, self.count // 4)) | {"train": self.count}
        drawings = [
            Drawing(self.size, self.seed, split, index) for split, count in counts.items() for index in range(count)
        ]
        return [Record(d.name, DrawnImage(d), DrawnMask(d), d.split) for d in drawings]


@dataclass(frozen=True)
class Drawing:
    """The arguments of `draw`."""

    size: tuple[int, int]
    seed: int
    split: str
    index: int

    @property
    def name(self) -> str:
        """Name of the image, such as `train_00007`."""
        return f"{self.split}_{self.index:05d}"


@lru_cache(maxsize=16)  # a record's image and target are read one after the other, in a few threads at once
def _draw(drawing: Drawing) -> tuple[Tensor, Tensor]:
    return draw(drawing.size, drawing.seed, drawing.split, drawing.index)


@dataclass(frozen=True)
class DrawnImage:
    """The image of a drawing."""

    drawing: Drawing
    paths: tuple[Path, ...] = ()

    @property
    def description(self) -> str:
        """Text for messages."""
        return f"synthetic image '{self.drawing.name}'"

    def read(self, channels: int = 3) -> Tensor:
        """Draw the image as uint8 (channels, H, W)."""
        color = _draw(self.drawing)[0].permute(1, 2, 0).numpy()
        opaque = Pixels(np.dstack([color, np.full_like(color[..., 0], 255)]), alpha=True)
        values = with_channels(opaque, channels, self.description)
        return torch.from_numpy(np.array(values.transpose(2, 0, 1), order="C"))  # the cache keeps its own


@dataclass(frozen=True)
class DrawnMask:
    """The mask of a drawing."""

    drawing: Drawing
    paths: tuple[Path, ...] = ()

    @property
    def description(self) -> str:
        """Text for messages."""
        return f"mask '{self.drawing.name}'"

    def read(self) -> Tensor:
        """Draw the mask as uint8 (H, W)."""
        return _draw(self.drawing)[1].clone()  # the cache keeps its own
