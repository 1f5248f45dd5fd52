"""Synthetic images as a dataset, for tests that need no files; a process draws each image only once."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from torch import Tensor

from finetune.data import Record, SegmentationDataset, Transform
from finetune.data.sources.synthetic import Drawing, DrawnImage, DrawnMask

Size = int | tuple[int, int]


class SyntheticDataset(SegmentationDataset):
    """Images of one split; several sizes take turns."""

    def __init__(
        self,
        count: int = 200,
        size: Size | Sequence[Size] = 128,
        seed: int = 0,
        split: str = "train",
        transform: Transform | None = None,
    ) -> None:
        super().__init__(synthetic_records(count, size, seed, split), transform=transform, seed=seed)


def synthetic_records(
    count: int, size: Size | Sequence[Size] = 128, seed: int = 0, split: str = "train"
) -> list[Record]:
    """Return records of one split; a list of sizes makes them take turns."""
    sizes = size if isinstance(size, list) else [size]
    pairs = [(side, side) if isinstance(side, int) else side for side in sizes]
    drawings = [Drawing(pairs[index % len(pairs)], seed, split, index) for index in range(count)]
    return [Record(drawing.name, CachedImage(drawing), CachedMask(drawing), split) for drawing in drawings]


@cache
def drawn(drawing: Drawing, channels: int) -> tuple[Tensor, Tensor]:
    return DrawnImage(drawing).read(channels), DrawnMask(drawing).read()


@dataclass(frozen=True)
class CachedImage(DrawnImage):
    """An image that is drawn at its first reading."""

    def read(self, channels: int = 3) -> Tensor:
        return drawn(self.drawing, channels)[0].clone()


@dataclass(frozen=True)
class CachedMask(DrawnMask):
    """A mask that is drawn at its first reading."""

    def read(self) -> Tensor:
        return drawn(self.drawing, 3)[1].clone()
