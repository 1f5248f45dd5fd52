"""Check and count the images of a source, with messages that fit its settings."""

from collections.abc import Sequence

import torch

from finetune import data as data_package
from finetune.builders.settings import DataSettings
from finetune.config.options import Config
from finetune.data import DataError, Record, Source, Statistics
from finetune.data.caching.file_cache import FileCache
from finetune.data.mistakes import Reading
from finetune.models.classes import class_names


def file_cache(settings: Config) -> FileCache:
    """Return the cache of what files hold, as `data.verify` says."""
    return FileCache(settings.get("verify", DataSettings.verify))


def reading_processes(settings: Config) -> int | None:
    """Return the number of processes that read all files, `data.num_workers`; None for one per core."""
    workers = settings.get("num_workers")
    return None if workers in (None, "auto") else int(workers)


def inspect_records(
    source: Source,
    records: Sequence[Record],
    settings: Config,
    channels: int,
    model_decides: bool = False,
    readings: Sequence[Reading] | None = None,
) -> dict[str, Statistics]:
    """Return the statistics of each split.

    Args:
        source: of the records.
        records: with or without splits.
        settings: of `data`, to word messages.
        channels: of the images.
        model_decides: whether the classes are those of a trained model.
        readings: of the records, if they have been read.

    Raises:
        DataError: with every mistake in the images and masks, or the classes are not known.
    """
    if not source.class_names:
        raise DataError(classes_hint(records, source.ignore_index, channels, readings))
    raw_values = settings.get("mask_values", ()) is None  # the setting exists, and nothing translates the values yet
    return data_package.inspect(
        records,
        len(class_names(source.class_names)),
        source.ignore_index,
        channels,
        raw_values,
        model_decides=model_decides,
        processes=reading_processes(settings),
        readings=readings,
        cache=file_cache(settings),
    )


def classes_hint(
    records: Sequence[Record], ignore_index: int, channels: int, readings: Sequence[Reading] | None
) -> str:
    """Return what to set `data.classes` to, from the labels in all masks."""
    statistics = data_package.inspect(records, 255, ignore_index, channels, raw_values=False, readings=readings)
    pixels = torch.stack([split.pixels for split in statistics.values()]).sum(dim=0)
    labels = pixels.nonzero().flatten().tolist()
    return (
        f"data.classes is not set. The masks hold the labels {', '.join(map(str, labels))}. Set data.classes to the "
        f"number of classes or to their names as [background,thing,...], and data.ignore_index to a label to leave out."
    )
