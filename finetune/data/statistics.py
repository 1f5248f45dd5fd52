"""What the files hold, read once before training starts."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import Tensor

from finetune.data.decode import read_image, read_mask
from finetune.data.records import DataError, Record
from finetune.io.messages import shortlist

FILES_NAMED = 3
PROBLEMS_SHOWN = 20


@dataclass(frozen=True)
class Statistics:
    """One split in numbers.

    Attributes:
        images: number of images.
        pixels: labelled pixels per class (classes,), int64.
        ignored: pixels with the ignored label.
        sizes: (height, width) -> number of images.
    """

    images: int
    pixels: Tensor
    ignored: int
    sizes: dict[tuple[int, int], int]


@dataclass
class _Reading:
    """One image and mask: its size, the pixels of each of the 256 labels, what is wrong with it."""

    record: Record
    size: tuple[int, int] = (0, 0)
    labels: Tensor = field(default_factory=lambda: torch.zeros(256, dtype=torch.int64))
    unreadable: list[str] = field(default_factory=list)
    mask_size: tuple[int, int] | None = None


def inspect(
    records: Iterable[Record],
    classes: int,
    ignore_index: int = 255,
    mask_values: Sequence[int] | None = None,
    channels: int = 3,
    threads: int | None = None,
) -> dict[str, Statistics]:
    """Decode every file once and count what is in it.

    Args:
        records: images with masks.
        classes: number of classes; labels are 0 to classes - 1.
        ignore_index: label that is left out of loss and score.
        mask_values: file value of each class, as for `read_mask`.
        channels: as for `read_image`.
        threads: decoding threads; None for one a core, 8 at most.

    Returns:
        Split -> its statistics.

    Raises:
        DataError: with every mistake in every file; the same mistake in many files is one line.
    """

    def read(record: Record) -> _Reading:
        return _read(record, ignore_index, mask_values, channels)

    with ThreadPoolExecutor(threads or min(8, os.cpu_count() or 1)) as pool:
        readings = list(pool.map(read, records))
    problems = _file_problems(readings) + _label_problems(readings, classes, ignore_index, mask_values)
    if problems:
        rest = len(problems) - PROBLEMS_SHOWN
        shown = problems[:PROBLEMS_SHOWN] + ([f"and {rest:,} more problems"] if rest > 0 else [])
        raise DataError(f"{len(readings):,} images checked, {len(problems):,} problems:\n- " + "\n- ".join(shown))
    splits: defaultdict[str, list[_Reading]] = defaultdict(list)
    for reading in readings:
        splits[reading.record.split].append(reading)
    return {split: _statistics(group, classes, ignore_index) for split, group in splits.items()}


def class_weights(pixels: Tensor, rule: str = "none") -> Tensor:
    """Loss weights that lift rare classes, from pixel counts n of N.

    `none` is 1. `inverse_sqrt` is 1 / sqrt(n). `median_frequency` is median(n) / n (Eigen and Fergus 2015,
    https://arxiv.org/abs/1411.4734; frequencies here are over all pixels of the split). `effective_number` is
    (1 - b) / (1 - b^n) with b = 1 - 1/N (Cui et al. 2019, https://arxiv.org/abs/1901.05555).
    A weight above ten times the median weight is cut to that, so that one rare class cannot rule the loss; then the
    mean over the classes present is made 1. An absent class gets 1: it has no pixel to weigh in training, and keeps a
    plain weight should one turn up.

    Args:
        pixels: count per class (classes,), int64.
        rule: one of the four above.

    Returns:
        float32 (classes,).
    """
    counts = pixels.double()
    present = counts > 0
    n = counts[present]
    rules = {
        "none": torch.ones_like(n),
        "inverse_sqrt": n.rsqrt(),
        "median_frequency": n.reciprocal(),  # the median is a constant, which the mean takes out again
        "effective_number": -1 / torch.expm1(n * torch.log1p(-1 / (n.sum() + 1))),
    }
    if rule not in rules:
        raise ValueError(f"class weight rule '{rule}' is unknown; expected one of {', '.join(rules)}.")
    weights = torch.ones_like(counts)
    if present.any():
        raw = rules[rule]
        raw = raw.clamp(max=10 * float(raw.median()))
        weights[present] = raw / raw.mean()
    return weights.float()


def _read(record: Record, ignore_index: int, mask_values: Sequence[int] | None, channels: int) -> _Reading:
    reading = _Reading(record)
    try:
        height, width = read_image(record.image, channels).shape[1:]
        reading.size = (height, width)
    except DataError as error:
        reading.unreadable.append(str(error))
    if record.mask is None:
        reading.unreadable.append(f"'{record.image}' has no mask. Add one, or take the image out.")
        return reading
    try:
        mask = read_mask(record.mask, mask_values, ignore_index)
    except DataError as error:
        reading.unreadable.append(str(error))
        return reading
    reading.labels = torch.bincount(mask.flatten(), minlength=256)
    reading.mask_size = (mask.shape[0], mask.shape[1])
    return reading


def _file_problems(readings: list[_Reading]) -> list[str]:
    problems = [text for reading in readings for text in reading.unreadable]
    pairs = [reading for reading in readings if not reading.unreadable and reading.mask_size != reading.size]
    if pairs:
        named = shortlist((f"{r.record.image.name} is {_by(r.size)}, its mask {_by(r.mask_size)}" for r in pairs), 5)
        problems.append(f"{len(pairs):,} images differ in size (height x width) from their mask: {named}.")
    return problems


def _by(size: tuple[int, int] | None) -> str:
    return "x".join(map(str, size or ()))


def _label_problems(
    readings: list[_Reading], classes: int, ignore_index: int, mask_values: Sequence[int] | None
) -> list[str]:
    totals = sum((reading.labels for reading in readings), torch.zeros(256, dtype=torch.int64))
    seen = totals.nonzero().flatten().tolist()
    outside = [label for label in seen if label >= classes and label != ignore_index]
    # 0 and 255 is how most tools save a two-class mask; with 255 ignored, training would see class 0 only
    black_and_white = classes == 2 and seen == [0, 255]
    if mask_values is None and len(seen) == classes and (outside or black_and_white):
        return [
            f"the masks hold only the values {seen}, but the {classes} classes are 0 to {classes - 1}"
            f"{' and 255 is ignored' if ignore_index in seen else ''}. "
            f"Set data.mask_values={str(seen).replace(' ', '')}."
        ]
    problems = []
    for label in outside:
        masks = [r.record.mask.name for r in readings if r.labels[label] and r.record.mask is not None]
        problems.append(
            f"label {label} is outside the {classes} classes (0 to {classes - 1}): {totals[label]:,} pixels in "
            f"{len(masks):,} masks: {shortlist(masks, FILES_NAMED)}. Set data.ignore_index={label}, or "
            f"data.classes={label + 1}, or list the file values of the classes in data.mask_values."
        )
    return problems


def _statistics(readings: list[_Reading], classes: int, ignore_index: int) -> Statistics:
    totals = torch.stack([reading.labels for reading in readings]).sum(0)
    ignored = int(totals[ignore_index])
    pixels = totals[:classes].clone()
    if ignore_index < classes:
        pixels[ignore_index] = 0  # an ignored label is never a class, even inside 0 to classes - 1
    return Statistics(len(readings), pixels, ignored, dict(Counter(reading.size for reading in readings)))
