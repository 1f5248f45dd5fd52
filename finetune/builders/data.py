"""Build the data of a config: its source, datasets and transform."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from finetune import data as data_package
from finetune.builders.dataset_bundle import DatasetBundle
from finetune.builders.devices import resolve_workers, runs_on_cpu
from finetune.builders.image_settings import image_settings, reduction
from finetune.builders.inspection import inspect_records
from finetune.builders.objects import read_objects
from finetune.builders.pixel_cache import attach_pixel_cache
from finetune.builders.splits import split_records
from finetune.builders.targets import find_object
from finetune.builders.tiles import tiled_records
from finetune.builders.transform import attach_transform
from finetune.config.errors import ConfigError
from finetune.config.options import Config, validate_options
from finetune.data import SOURCES, DataError, Record, SegmentationDataset, Source, Statistics
from finetune.data.images.survey import with_value_range
from finetune.data.images.value_range import ValueRange
from finetune.data.mistakes import Reading
from finetune.data.module import SegmentationData
from finetune.data.splitting.split_names import SPLITS
from finetune.data.tiles import describe_tiles
from finetune.io.messages import suggest
from finetune.models.classes import class_names
from finetune.tasks import TASKS

# settings of `data` that are not options of the source
COMMON_SETTINGS = (
    *("format", "value_range", "tiles", "val", "test", "splits", "group", "stratify", "folds", "fold"),
    *("exclude", "clean_masks", "instances", "verify", "cache", "batch_size", "num_workers"),
)


def training_data(config: Config) -> DatasetBundle:
    """Build the datasets of a training; nothing is transformed yet."""
    settings, seed = config["data"], config["seed"]
    source = build_source(settings)
    split = split_records(source, settings, seed, partial(_survey, config))
    for name in ("train", "val"):
        if not any(record.split == name for record in split.records):
            raise DataError(
                f"none of the {len(split.records):,} images is in the {name} split. Put some into it, or remove the "
                f"split from the data to have the images split by data.val, data.test and seed."
            )
    channels, value_range, about_images = image_settings(config, split.records)
    with_objects = takes_objects(config)
    bundle = bundle_datasets(
        source, split.records, settings, channels, value_range, seed, readings=split.readings, with_objects=with_objects
    )
    notes = (*about_images, *bundle.notes, *split.notes)
    return replace(bundle, notes=notes, warnings=(*bundle.warnings, *split.warnings))


def takes_objects(config: Config) -> bool:
    """Return whether the task of a config, or of a saved model, has planes of objects as targets."""
    name = (config.get("task") or {}).get("name")
    return name in TASKS and TASKS[name].takes_objects


def prepare_datasets(data: DatasetBundle, config: Config) -> None:
    """Have images read, kept and changed as the settings of a training say, once no setting is `auto` any more."""
    for split in ("train", "val"):
        data.datasets[split].reduce = reduction(config)
    if config["data"].get("cache") is not None:
        attach_pixel_cache(data, config["data"]["cache"], config["trainer"], data.channels)
    attach_transform(data, config["augment"])
    data.datasets["train"].leaves_color = not runs_on_cpu(config["trainer"])


def read_at_own_size(dataset: SegmentationDataset) -> SegmentationDataset:
    """Have the images of a dataset read at their own size, for scores that are not those of a training; return it."""
    if dataset.reduce > 1:
        dataset.reduce, dataset.pixels = 1, None  # the cache has the reduced ones
    return dataset


def _survey(config: Config, records: Sequence[Record]) -> tuple[list[Record], int]:
    """Return records of all splits so that their images can be read, and the channels of these."""
    channels, value_range, _ = image_settings(config, [replace(record, split="train") for record in records])
    return with_value_range(records, value_range), channels


def source_class(format_name: str) -> type[Source]:
    """Return the class that `data.format` names: a key of `SOURCES`, or a dotted name, which is imported.

    Raises:
        ConfigError: the format is unknown, or the dotted name is not a source.
    """
    if format_name in SOURCES:
        return SOURCES[format_name]
    if "." not in str(format_name):
        raise ConfigError(
            f"unknown data.format '{format_name}'. {suggest(str(format_name), SOURCES)} A source of your own is "
            f"package.module.Class."
        )
    try:
        imported: type[Source] = find_object(format_name)
    except Exception as error:  # an import may raise anything
        raise ConfigError(f"data.format={format_name} cannot be imported: {error or type(error).__name__}") from error
    if not callable(getattr(imported, "records", None)):
        raise ConfigError(f"data.format={format_name}: expected a finetune.data.Source, but it has no method records.")
    return imported


def source_options(settings: Config) -> dict[str, Any]:
    """Return the settings that are options of the source.

    Raises:
        ConfigError: the source lacks one of them; the nearest names are shown.
    """
    given = {name: value for name, value in settings.items() if name not in COMMON_SETTINGS}
    return validate_options("data", source_class(settings["format"]), given)


def missing_options(settings: Config) -> list[str]:
    """Return the options that the source needs and that are not set."""
    if settings["format"] == "auto":
        return ["root"] if settings.get("root") is None else []
    parameters = inspect.signature(source_class(settings["format"])).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return [name for name in needed if settings.get(name) is None]


def build_source(settings: Config) -> Source:
    """Build the source of the settings in `data`; it reads no file yet.

    Raises:
        ConfigError: an option is unknown, missing or invalid.
    """
    options = source_options(settings)
    if missing := missing_options(settings):
        raise ConfigError(
            f"data.{missing[0]} is not set. data.format={settings['format']} needs it; to try things without data of "
            f"your own, use data=synthetic."
        )
    build: Callable[..., Source] = source_class(settings["format"])
    try:
        return build(**options)
    except (TypeError, ValueError) as error:
        # constructors name their argument first; as a setting it belongs to the group
        is_option = str(error).partition("=")[0] in options
        raise ConfigError(f"data.{error}" if is_option else str(error)) from error


def bundle_datasets(
    source: Source,
    records: Sequence[Record],
    settings: Config,
    channels: int,
    value_range: ValueRange | None = None,
    seed: int = 0,
    model_decides: bool = False,
    readings: Sequence[Reading] | None = None,
    with_objects: bool = False,
) -> DatasetBundle:
    """Check and count all records, and build a dataset for each of their splits.

    Args:
        source: of the records.
        records: with splits, which may be "all".
        settings: of `data`, to word messages.
        channels: of the images.
        value_range: the values of black and white in images of more than 8 bit.
        seed: of the random changes of training images.
        model_decides: whether the classes are those of a trained model.
        readings: of the records, or of their tiles, if they have been read.
        with_objects: whether the datasets' targets are planes of objects.
    """
    records = with_value_range(records, value_range)
    tiled = tiled_records(records, settings)
    tiles = [tile for parts in tiled for tile in parts]
    statistics = inspect_records(source, tiles, settings, channels, model_decides, readings)
    classes = class_names(source.class_names)
    objects, about_objects = None, list[str]()
    if with_objects:
        tiles, objects, about_objects = read_objects(tiles, settings, classes, source.ignore_index)
    datasets = {}
    for split in (*SPLITS, "all"):
        if chosen := [tile for tile in tiles if tile.split == split]:
            datasets[split] = SegmentationDataset(chosen, channels, seed=seed)
    is_tiled = len(tiles) > len(records)
    notes: Sequence[str] = describe_tiles(tiled, settings["tiles"]) if is_tiled else []
    return DatasetBundle(
        classes=classes,
        ignore_index=source.ignore_index,
        datasets=datasets,
        records=records,
        statistics=statistics,
        channels=channels,
        value_range=value_range,
        tiled=is_tiled,
        notes=(*notes, *about_objects),
        warnings=_turned(statistics),
        objects=objects,
    )


def _turned(statistics: Mapping[str, Statistics]) -> tuple[str, ...]:
    """Return a warning if images carry an EXIF rotation that their masks may not have."""
    turned = [name for split in statistics.values() for name in split.turned]
    if not turned:
        return ()
    return (
        f"{len(turned):,} images carry an EXIF rotation, such as {turned[0]}. They are turned upright, and their "
        f"masks, which fit both ways, are taken as drawn on the upright picture. If they were drawn on the picture "
        f"as it is stored, remove the rotation from the images.",
    )


def loss_weights(rule: str, data: DatasetBundle) -> torch.Tensor | None:
    """Return class weights from the pixels in the training targets; None for equal weights."""
    return None if rule == "none" else data_package.class_weights(data.statistics["train"].pixels, rule)


def build_datamodule(config: Config, data: DatasetBundle) -> SegmentationData:
    """Build the Lightning data module."""
    settings, sets = config["data"], data.datasets
    workers = resolve_workers(settings["num_workers"], config["trainer"])
    return SegmentationData(
        *(sets["train"], sets["val"], sets.get("test")),
        batch_size=settings["batch_size"],
        num_workers=workers,
        seed=config["seed"],
        class_shares=data.class_shares(),
    )
