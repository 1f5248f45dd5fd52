"""Attach a cache of decoded images to the datasets of a training."""

import logging
import shutil
from pathlib import Path

from finetune.builders.dataset_bundle import DatasetBundle
from finetune.builders.devices import devices_of_node
from finetune.config.errors import ConfigError
from finetune.config.options import Config
from finetune.data import Statistics
from finetune.data.caching.file_cache import cache_folder
from finetune.data.caching.pixel_cache import disk_cache, memory_cache
from finetune.io.messages import format_bytes
from finetune.profiling import memory
from finetune.recipe.facts import ObjectFacts

logger = logging.getLogger(__name__)
CACHED = ("train", "val")  # the test images are read once
SPARE = 0.8  # of the free space may be taken: the training needs memory, too


def attach_pixel_cache(data: DatasetBundle, place: str, trainer: Config, channels: int) -> None:
    """Give the datasets for training and validation a cache of decoded images and masks.

    Args:
        data: of the training.
        place: `ram` or `disk`.
        trainer: settings of the trainer; in memory, each device has a cache of its own.
        channels: of the images.

    Raises:
        ConfigError: it does not fit, or its folder cannot be written to.
    """
    size = sum(
        decoded_bytes(data.statistics[split], channels, len(data.classes), data.objects)
        // data.datasets[split].reduce ** 2
        for split in CACHED
    )
    if place == "ram":
        devices = devices_of_node(trainer)
        _check_space(
            size * devices, size * devices, memory.available(), "memory", "Set data.cache=disk, or leave it out."
        )
        for split in CACHED:
            data.datasets[split].pixels = memory_cache()
        return
    folder = cache_folder()
    if folder is None:
        raise ConfigError("data.cache=disk: there is no home folder to put it into. Set FINETUNE_CACHE=FOLDER.")
    try:
        for split in CACHED:
            dataset = data.datasets[split]
            dataset.pixels = disk_cache(dataset.records, channels, folder, dataset.reduce)
        there = sum(path.stat().st_size for path in _files(data))
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise ConfigError(f"data.cache=disk: {error}. Set FINETUNE_CACHE=FOLDER to one you may write to.") from error
    remedy = f"Delete '{folder / 'pixels'}' if no run uses it, or set FINETUNE_CACHE to a folder on another disk."
    _check_space(size, size - there, free, f"'{folder}'", remedy)


def decoded_bytes(statistics: Statistics, channels: int, classes: int, objects: ObjectFacts | None = None) -> int:
    """Return the bytes that the decoded images and masks of a split take.

    >>> import torch
    >>> decoded_bytes(Statistics(2, torch.ones(2), 0, {(10, 20): 2}), 3, 2)
    1600
    """
    planes = channels + (classes if statistics.multilabel else 1 if objects is None else 2)  # at least
    return sum(height * width * count for (height, width), count in statistics.sizes.items()) * planes


def _files(data: DatasetBundle) -> list[Path]:
    caches = [data.datasets[split].pixels for split in CACHED]
    return [Path(cache.paths[0]) for cache in caches if cache is not None]


def _check_space(size: int, missing: int, free: int | None, place: str, remedy: str) -> None:
    """Log how much a cache takes; raise a ConfigError if there is no space for what is missing of it."""
    text = f"decoded images and masks take {format_bytes(size)} of {place}"
    if free is not None and missing > SPARE * free:
        raise ConfigError(f"data.cache: {text}, which has {format_bytes(free)} free. {remedy}")
    logger.info(f"{text} (data.cache)")
