"""Check every image and target once before training, and count their classes."""

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from finetune.data.caching.facts import read_each
from finetune.data.caching.file_cache import FileCache
from finetune.data.caching.known_facts import reading_fact
from finetune.data.files import ImageFile
from finetune.data.masks.contents import count
from finetune.data.mistakes import Reading, channel_problems, index_problems, reading_problems
from finetune.data.records import DataError, Record, error_listing
from finetune.data.tiles import ImageTile

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Statistics:
    """One split in numbers.

    Attributes:
        images: number of images.
        pixels: labeled pixels per class (K,), int64.
        ignored: values with the ignored label; for one channel per class, counted over all channels.
        sizes: (height, width) -> number of images.
        multilabel: whether the targets have one channel per class.
        resized: number of targets of another size than their image, but of its shape.
        turned: images with an EXIF rotation whose size does not tell whether their targets have it, too.
    """

    images: int
    pixels: Tensor
    ignored: int
    sizes: dict[tuple[int, int], int]
    multilabel: bool = False
    resized: int = 0
    turned: tuple[str, ...] = ()


def inspect(
    records: Iterable[Record],
    classes: int,
    ignore_index: int = 255,
    channels: int = 3,
    raw_values: bool = True,
    processes: int | None = None,
    model_decides: bool = False,
    readings: Sequence[Reading] | None = None,
    cache: FileCache | None = None,
) -> dict[str, Statistics]:
    """Decode every image and target once, and count what they hold.

    Args:
        records: images with targets, of any source.
        classes: number of classes; labels are 0 to classes - 1.
        ignore_index: label that loss and scores leave out.
        channels: number of channels that the images are read with.
        raw_values: whether labels are the values in the files, so that `data.mask_values` may translate them; messages
            suggest it then.
        processes: that decode, as for `each_result`.
        model_decides: whether the classes are those of a trained model, so that `data.classes` cannot change them.
        readings: of these records, if they have been read; nothing is decoded then.
        cache: of what files hold; None decodes all of them.

    Returns:
        Split -> its statistics.

    Raises:
        DataError: with every mistake in every record; the same mistake in many records is one line.
    """
    if readings is None:
        readings = read_all(list(records), channels, processes, cache)
    else:
        readings = [replace(reading, record=record) for reading, record in zip(readings, records, strict=True)]
    indices = [reading for reading in readings if reading.positives is None]
    channelwise = [reading for reading in readings if reading.positives is not None]
    problems = [
        *reading_problems(indices, channelwise),
        *index_problems(indices, classes, ignore_index, raw_values, model_decides),
        *channel_problems(channelwise, classes, ignore_index),
    ]
    if problems:
        raise error_listing(
            f"{len(readings):,} images checked, {len(problems):,} problem{'s' * (len(problems) > 1)}", problems
        )
    splits: defaultdict[str, list[Reading]] = defaultdict(list)
    for reading in readings:
        splits[reading.record.split].append(reading)
    return {split: summarize(group, classes, ignore_index) for split, group in splits.items()}


def read_all(
    records: Sequence[Record], channels: int = 3, processes: int | None = None, cache: FileCache | None = None
) -> list[Reading]:
    """Decode every image and target once; the arguments are those of `inspect`."""
    before = cache.taken if cache is not None else 0
    readings = read_each(
        records, reading_fact(channels), lambda record: take_reading(record, channels)[0], cache, processes
    )
    for reading, record in zip(readings, records, strict=True):
        reading.record = record  # instead of a copy from another process
    if cache is not None and (taken := cache.taken - before):
        trust = "not looked at" if cache.verify == "none" else "unchanged since they were read"
        logger.info(f"{taken:,} of {len(records):,} images and masks are {trust}; data.verify=full reads all again")
    return readings


def class_pixels(reading: Reading, classes: int, ignore_index: int) -> Tensor:
    """Return the labeled pixels of each class in one record (classes,), int64."""
    if reading.positives is not None:
        return reading.positives
    pixels = reading.values[:classes].clone()
    if ignore_index < classes:
        pixels[ignore_index] = 0  # an ignored label is never a class, even inside 0 to classes - 1
    return pixels


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


def take_reading(record: Record, channels: int) -> tuple[Reading, Tensor | None, Tensor | None]:
    """Decode the image (C, H, W) and the target of a record, and count the target's values.

    Returns:
        What was read, with all problems, and the image and the target; None for what cannot be read.
    """
    reading = Reading(record)
    image, target = None, None
    try:
        image = record.image.read(channels)
        reading.size = tuple(image.shape[-2:])
        whole = record.image.whole if isinstance(record.image, ImageTile) else record.image
        reading.may_be_turned = isinstance(whole, ImageFile) and whole.may_be_turned()
    except DataError as error:
        reading.problems.append(str(error))
    if record.target is None:
        reading.problems.append(f"{record.image.description} has no mask. Add one, or remove the image.")
        return reading, image, None
    try:
        target = record.target.read()
    except DataError as error:
        reading.problems.append(str(error))
        return reading, image, None
    reading.target_size = tuple(target.shape[-2:])
    reading.counts = dict(sorted(count(target.numpy()).items()))
    reading.positives = (target == 1).sum((1, 2)) if target.dim() == 3 else None
    return reading, image, target


def summarize(readings: list[Reading], classes: int, ignore_index: int) -> Statistics:
    """Return the statistics of readings without problems, at least one."""
    pixels = torch.stack([class_pixels(reading, classes, ignore_index) for reading in readings]).sum(0)
    ignored = sum(int(reading.values[ignore_index]) for reading in readings)
    sizes = Counter((reading.size[0], reading.size[1]) for reading in readings)
    multilabel = any(reading.positives is not None for reading in readings)
    resized = sum(reading.size != reading.target_size for reading in readings)
    turned = tuple(reading.record.image.description for reading in readings if reading.may_be_turned)
    return Statistics(len(readings), pixels, ignored, dict(sizes), multilabel, resized, turned)
