"""Settings of the images that are `auto`: the channels of the model, and the values of black and white."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.builders.dataset_bundle import DatasetBundle
from finetune.builders.inspection import file_cache
from finetune.checkpoints.saved_model import load_model
from finetune.config.errors import ConfigError
from finetune.config.nested import with_value
from finetune.config.options import Config
from finetune.data import Record
from finetune.data.images.survey import (
    check_has_effect,
    dropped_alpha,
    find_channels,
    find_value_range,
    read_headers,
)
from finetune.data.images.value_range import ValueRange, value_pairs
from finetune.models.normalization import check_statistics

WITHOUT_IMAGES = 3  # channels of a model that is built before any image is known, such as by `finetune plan`


def reduction(config: Config) -> int:
    """Return `backbone.reduce`, or 1 while it is `auto` and for runs of earlier versions."""
    factor = config["backbone"].get("reduce", 1)
    return 1 if factor == "auto" else int(factor)


def image_channels(config: Config) -> int:
    """Return `backbone.in_channels`, or 3 while it is `auto`."""
    channels = config["backbone"]["in_channels"]
    return WITHOUT_IMAGES if channels == "auto" else int(channels)


def image_settings(config: Config, records: Sequence[Record]) -> tuple[int, ValueRange | None, list[str]]:
    """Return `backbone.in_channels` and `data.value_range`, taken from the training images where they are `auto`.

    Lines about both come third. A model that starts from another one (`init_from`) has its channels.

    Raises:
        DataError: the images have no number of channels in common, or a range is given that has no effect.
    """
    channels, value_range = config["backbone"]["in_channels"], config["data"].get("value_range", "auto")
    if value_range not in (None, "auto"):
        check_value_range(value_range)
    lines: list[str] = []
    headers = read_headers(record for record in records if record.split == "train")
    if channels == "auto" and config["init_from"]:
        channels = load_model(Path(config["init_from"])).model.backbone.in_channels
    elif channels == "auto":
        channels, lines = find_channels(headers)
        lines += dropped_alpha(headers, channels)
        check_statistics(channels, mean=config["backbone"].get("mean"), std=config["backbone"].get("std"))
    if value_range == "auto":
        value_range, about_range = find_value_range(headers, channels, file_cache(config["data"]))
        lines += about_range
    elif value_range is not None:
        check_has_effect(value_range, headers)
    return channels, value_range, lines


def check_value_range(value_range: ValueRange) -> None:
    """Raise a ConfigError unless `data.value_range` is a pair of numbers, or a list of pairs."""
    try:
        value_pairs(value_range)
    except ValueError as error:
        raise ConfigError(f"data.{error}") from error


def with_image_settings(config: Config, data: DatasetBundle) -> dict[str, Any]:
    """Return the config of a training with the channels and the value range that its data is read with."""
    changed = with_value(config, "backbone.in_channels", data.channels)
    has_range = "value_range" in config["data"] or data.value_range is not None
    return with_value(changed, "data.value_range", data.value_range) if has_range else changed
