"""Synthetic images as a dataset, for tests that need no files."""

from collections.abc import Sequence

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
    return [Record(drawing.name, DrawnImage(drawing), DrawnMask(drawing), split) for drawing in drawings]
