"""The shapes of the classes in training masks: how wide they are, and at which height."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import fmean, median, stdev

import torch
from torch import Tensor

from finetune.data.augmentation.class_crop import class_counts
from finetune.data.records import Record

MOST_MASKS = 200  # that are looked at, evenly spaced: the shapes of a class differ little beyond that


@dataclass(frozen=True)
class ClassShape:
    """A class in one mask.

    Attributes:
        width: twice the area over the length of the border, pixels; of a long stripe it is the width.
        height: of the center, from -1 at the top to 1 at the bottom.
    """

    width: float
    height: float


@dataclass(frozen=True)
class ClassShapes:
    """A class over many masks.

    Attributes:
        width: median of the widths, pixels.
        height_offset: mean of the heights.
        height_error: standard error of that mean; infinite for a single mask.
        masks: number of masks.
    """

    width: float
    height_offset: float
    height_error: float
    masks: int


def class_shapes(records: Sequence[Record], ignore_index: int, threads: int = 2) -> tuple[dict[int, ClassShapes], int]:
    """Return class -> its shapes over masks that are evenly spaced among the records, and the number of these."""
    count = min(len(records), MOST_MASKS)
    chosen = [records[index * len(records) // count] for index in range(count)]
    found: defaultdict[int, list[ClassShape]] = defaultdict(list)
    with ThreadPoolExecutor(threads) as pool:
        for shapes in pool.map(lambda record: _of_record(record, ignore_index), chosen):
            for label, shape in shapes.items():
                found[label].append(shape)
    return {label: summarize(shapes) for label, shapes in sorted(found.items())}, count


def _of_record(record: Record, ignore_index: int) -> dict[int, ClassShape]:
    assert record.target is not None  # records without a target have been refused
    return dict(mask_shapes(record.target.read(), ignore_index))


def mask_shapes(target: Tensor, ignore_index: int) -> Iterator[tuple[int, ClassShape]]:
    """Yield each class of a target with its shape.

    Args:
        target: uint8 (H, W), or (K, H, W) of 0, 1 and `ignore_index`.
        ignore_index: label of the pixels without a class.

    >>> stripe = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0], [255] * 4], dtype=torch.uint8)
    >>> dict(mask_shapes(stripe, 255))[0]
    ClassShape(width=1.0, height=0.25)
    """
    for label, area in enumerate(class_counts(target, ignore_index).tolist()):
        if area:
            where = target[label] == 1 if target.dim() == 3 else target == label
            yield label, ClassShape(2 * area / _border(where), _center(where, area))


def _border(where: Tensor) -> int:
    """Return the number of pixel sides between a class and others inside the image; at least 1."""
    down, across = where[1:] ^ where[:-1], where[:, 1:] ^ where[:, :-1]
    return max(1, int(down.sum()) + int(across.sum()))


def _center(where: Tensor, area: int) -> float:
    rows = where.sum(1)
    height = len(rows)
    position = float((rows * torch.arange(height)).sum()) / area + 0.5
    return 2 * position / height - 1


def summarize(shapes: Sequence[ClassShape]) -> ClassShapes:
    """Return the shapes of one class in several masks as one."""
    heights = [shape.height for shape in shapes]
    error = stdev(heights) / len(heights) ** 0.5 if len(heights) > 1 else float("inf")
    return ClassShapes(median(shape.width for shape in shapes), fmean(heights), error, len(shapes))
