"""Check every image and target once before training, and count their classes."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import Tensor

from finetune.data.records import DataError, Record, error_listing
from finetune.io.messages import shortlist

MAX_NAMED = 3  # records in one line


@dataclass(frozen=True)
class Statistics:
    """One split in numbers.

    Attributes:
        images: number of images.
        pixels: labeled pixels per class (K,), int64.
        ignored: values with the ignored label; for one channel per class, counted over all channels.
        sizes: (height, width) -> number of images.
        multilabel: whether the targets have one channel per class.
    """

    images: int
    pixels: Tensor
    ignored: int
    sizes: dict[tuple[int, int], int]
    multilabel: bool = False


@dataclass
class _Reading:
    """The contents of one record.

    Attributes:
        record: the record.
        size: height and width of the image; empty if it cannot be read.
        target_size: height and width of the target; empty if it cannot be read.
        values: pixels with each of the 256 values in the target, over all of its channels.
        positives: pixels of each class, for targets with one channel per class; None for class indices.
        problems: messages for everything that cannot be read.
    """

    record: Record
    size: tuple[int, ...] = ()
    target_size: tuple[int, ...] = ()
    values: Tensor = field(default_factory=lambda: torch.zeros(256, dtype=torch.int64))
    positives: Tensor | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def target(self) -> str:
        """Name of the target in messages; empty if there is none."""
        return self.record.target.description if self.record.target is not None else ""


def inspect(
    records: Iterable[Record],
    classes: int,
    ignore_index: int = 255,
    channels: int = 3,
    raw_values: bool = True,
    threads: int | None = None,
    model_decides: bool = False,
) -> dict[str, Statistics]:
    """Decode every image and target once, and count what they hold.

    Args:
        records: images with targets, of any source.
        classes: number of classes; labels are 0 to classes - 1.
        ignore_index: label that loss and scores leave out.
        channels: 1 (gray), 3 (RGB) or 4 (RGBA).
        raw_values: whether labels are the values in the files, so that `data.mask_values` may translate them; messages
            suggest it then.
        threads: decoding threads; None takes one per core, at most 8.
        model_decides: whether the classes are those of a trained model, so that `data.classes` cannot change them.

    Returns:
        Split -> its statistics.

    Raises:
        DataError: with every mistake in every record; the same mistake in many records is one line.
    """
    with ThreadPoolExecutor(threads or min(8, os.cpu_count() or 1)) as pool:
        readings = list(pool.map(lambda record: _read(record, channels), records))
    indices = [reading for reading in readings if reading.positives is None]
    channelwise = [reading for reading in readings if reading.positives is not None]
    problems = [
        *_reading_problems(indices, channelwise),
        *_index_problems(indices, classes, ignore_index, raw_values, model_decides),
        *_channel_problems(channelwise, classes, ignore_index),
    ]
    if problems:
        raise error_listing(
            f"{len(readings):,} images checked, {len(problems):,} problem{'s' * (len(problems) > 1)}", problems
        )
    splits: defaultdict[str, list[_Reading]] = defaultdict(list)
    for reading in readings:
        splits[reading.record.split].append(reading)
    return {split: _statistics(group, classes, ignore_index) for split, group in splits.items()}


def class_weights(pixels: Tensor, rule: str = "none") -> Tensor:
    """Return loss weights that raise rare classes, from pixel counts n of N.

    `none` is 1. `inverse_sqrt` is 1 / sqrt(n). `median_frequency` is median(n) / n (Eigen and Fergus 2015,
    https://arxiv.org/abs/1411.4734; frequencies here are over all pixels of the split). `effective_number` is
    (1 - b) / (1 - b^n) with b = 1 - 1/N (Cui et al. 2019, https://arxiv.org/abs/1901.05555).
    Weights are clipped at ten times the median weight, so that one rare class cannot dominate the loss, and scaled to a
    mean of 1 over the classes present. An absent class gets 1.

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
        "median_frequency": n.reciprocal(),  # the constant median cancels in the mean
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


def _read(record: Record, channels: int) -> _Reading:
    reading = _Reading(record)
    try:
        reading.size = tuple(record.image.read(channels).shape[-2:])
    except DataError as error:
        reading.problems.append(str(error))
    if record.target is None:
        reading.problems.append(f"{record.image.description} has no mask. Add one, or remove the image.")
        return reading
    try:
        target = record.target.read()
    except DataError as error:
        reading.problems.append(str(error))
        return reading
    reading.target_size = tuple(target.shape[-2:])
    reading.values = torch.bincount(target.flatten(), minlength=256)
    reading.positives = (target == 1).sum((1, 2)) if target.dim() == 3 else None
    return reading


def _reading_problems(indices: list[_Reading], channelwise: list[_Reading]) -> list[str]:
    readings = [*indices, *channelwise]
    problems = [text for reading in readings for text in reading.problems]
    differing = [reading for reading in readings if not reading.problems and reading.target_size != reading.size]
    if differing:
        named = (
            f"{r.record.image.description} is {_by(r.size)}, its {r.target} {_by(r.target_size)}" for r in differing
        )
        problems.append(
            f"{len(differing):,} images differ in size (height x width) from their mask: {shortlist(named, MAX_NAMED)}."
        )
    readable = [reading for reading in indices if reading.target_size]
    if readable and channelwise:
        problems.append(
            f"{len(channelwise):,} masks have one channel per class and {len(readable):,} hold class indices, such as "
            f"{channelwise[0].target} and {readable[0].target}. Use one of the two for all images."
        )
    return problems


def _by(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size))


def _index_problems(
    readings: list[_Reading], classes: int, ignore_index: int, raw_values: bool, model_decides: bool
) -> list[str]:
    totals = sum((reading.values for reading in readings), torch.zeros(256, dtype=torch.int64))
    labels = totals.nonzero().flatten().tolist()
    outside = [label for label in labels if label >= classes and label != ignore_index]
    # most tools save a two-class mask as 0 and 255; with 255 ignored, training would see class 0 only
    black_and_white = classes == 2 and labels == [0, 255]
    if raw_values and len(labels) == classes and (outside or black_and_white):
        return [
            f"the masks hold only the values {labels}, but the {classes} classes are 0 to {classes - 1}"
            f"{' and 255 is ignored' if ignore_index in labels else ''}. "
            f"Set data.mask_values={str(labels).replace(' ', '')}."
        ]
    moves = [f"set data.ignore_index={outside[0]}"] if len(outside) == 1 else []  # only one label can be ignored
    moves += ["evaluate masks with the model's classes"] if model_decides else []
    moves += [f"set data.classes={outside[-1] + 1}"] if outside and not model_decides else []
    moves += ["list the file values of the classes in data.mask_values"] if raw_values else []
    advice = ", or ".join(moves)
    problems = []
    for label in outside:
        masks = [reading.target for reading in readings if reading.values[label]]
        problems.append(
            f"label {label} is outside the {classes} classes (0 to {classes - 1}): {totals[label]:,} pixels in "
            f"{len(masks):,} masks: {shortlist(masks, MAX_NAMED)}. {advice[:1].upper()}{advice[1:]}."
        )
    return problems


def _channel_problems(readings: list[_Reading], classes: int, ignore_index: int) -> list[str]:
    problems = []
    other_count = [r.target for r in readings if r.positives is not None and len(r.positives) != classes]
    if other_count:
        problems.append(
            f"{len(other_count):,} masks have another number of channels than the {classes} classes: "
            f"{shortlist(other_count, MAX_NAMED)}."
        )
    totals = sum((reading.values for reading in readings), torch.zeros(256, dtype=torch.int64))
    unknown = [value for value in totals.nonzero().flatten().tolist() if value not in (0, 1, ignore_index)]
    for value in unknown:
        masks = [reading.target for reading in readings if reading.values[value]]
        problems.append(
            f"value {value} in {len(masks):,} masks with one channel per class: {shortlist(masks, MAX_NAMED)}. "
            f"Expected 0, 1 and data.ignore_index={ignore_index}."
        )
    return problems


def _statistics(readings: list[_Reading], classes: int, ignore_index: int) -> Statistics:
    values = torch.stack([reading.values for reading in readings]).sum(0)
    positives = [reading.positives for reading in readings if reading.positives is not None]
    pixels = torch.stack(positives).sum(0) if positives else values[:classes].clone()
    if not positives and ignore_index < classes:
        pixels[ignore_index] = 0  # an ignored label is never a class, even inside 0 to classes - 1
    sizes = Counter((reading.size[0], reading.size[1]) for reading in readings)
    return Statistics(len(readings), pixels, int(values[ignore_index]), dict(sizes), bool(positives))
