"""Check every image and target once before training, and count their classes."""

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from finetune.data.caching.collection_facts import Collection, statistics_fact
from finetune.data.caching.facts import read_each
from finetune.data.caching.file_cache import FileCache
from finetune.data.caching.known_facts import reading_fact
from finetune.data.files import ImageFile
from finetune.data.masks.contents import count
from finetune.data.mistakes import Reading, channel_problems, index_problems, reading_problems
from finetune.data.records import DataError, Record, error_listing
from finetune.data.summary import Statistics, summarize
from finetune.data.tiles import ImageTile

logger = logging.getLogger(__name__)


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
    settings = (classes, ignore_index, raw_values, model_decides)
    if readings is not None:
        known = [replace(reading, record=record) for reading, record in zip(readings, records, strict=True)]
        return _summaries(known, *settings)

    def read(collection: Collection) -> dict[str, Statistics]:
        return _summaries(_read_each(collection.records, channels, processes, cache), *settings)

    collection, fact = Collection(list(records)), statistics_fact(channels, classes, f"{ignore_index} {raw_values}")
    with _noting_taken(cache, len(collection)):
        return dict(read_each([collection], fact, read, cache)[0])


def _summaries(
    readings: Sequence[Reading], classes: int, ignore_index: int, raw_values: bool, model_decides: bool
) -> dict[str, Statistics]:
    """Return the statistics of each split; the other arguments, and what it raises, are those of `inspect`."""
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
    with _noting_taken(cache, len(records)):
        return _read_each(records, channels, processes, cache)


def _read_each(
    records: Sequence[Record], channels: int, processes: int | None, cache: FileCache | None
) -> list[Reading]:
    fact = reading_fact(channels)
    readings = read_each(records, fact, lambda record: take_reading(record, channels)[0], cache, processes)
    for reading, record in zip(readings, records, strict=True):
        reading.record = record  # instead of a copy from another process
    return readings


@contextmanager
def _noting_taken(cache: FileCache | None, images: int) -> Iterator[None]:
    """Log how many of the images were not read, if there are any."""
    before = cache.taken if cache is not None else 0
    yield
    if cache is not None and (taken := cache.taken - before):
        trust = "not looked at" if cache.verify == "none" else "unchanged since they were read"
        logger.info(f"{taken:,} of {images:,} images and masks are {trust}; data.verify=full reads all again")


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
