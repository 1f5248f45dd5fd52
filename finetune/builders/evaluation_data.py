"""Build the data that a model is evaluated on: the run's own, or any other."""

import inspect
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune.builders.checks.settings import data_settings
from finetune.builders.data import (
    COMMON_SETTINGS,
    build_source,
    bundle_datasets,
    source_class,
    takes_objects,
)
from finetune.builders.dataset_bundle import DatasetBundle
from finetune.builders.discovery import AUTO, discovered
from finetune.builders.grouping import with_groups
from finetune.builders.image_settings import check_value_range
from finetune.builders.records import read_records
from finetune.builders.settings import DataSettings
from finetune.builders.splits import keeps_split, split_by_file
from finetune.checkpoints.saved_model import SavedModel
from finetune.config.compose import compose, to_plain_dict
from finetune.config.errors import ConfigError, raise_mistakes
from finetune.config.options import Config
from finetune.config.overrides import typed
from finetune.data import SOURCES, DataError, Record, Source, assign_splits, read_splits, restore_splits
from finetune.data.masks.values import VOID, as_values, has_colors, is_color
from finetune.data.splitting.split_file import GROUP, HEADER, read_training_images
from finetune.io.messages import shortlist
from finetune.io.safe_files import read_rows

logger = logging.getLogger(__name__)

LABEL_SETTINGS = ("classes", "ignore_index", "mask_values", "snap")  # about labels; all other options are about images


def evaluation_data(
    config: Config,
    saved: SavedModel,
    trained: Config | None = None,
    own_splits: Path | None = None,
    other_splits: Sequence[Path] = (),
) -> tuple[DatasetBundle, str]:
    """Build the data to evaluate on, and choose its split.

    Settings that are not given are those of the training. Images without a split are all evaluated.

    Args:
        config: of `finetune evaluate`.
        saved: the model.
        trained: config of the run that trained it, which may come from an untrusted source; None for a model alone.
        own_splits: split file of that run; it applies to the images of the run only.
        other_splits: split files of further runs whose models predict together with this one.

    Raises:
        ConfigError: the classes are not the model's, the split does not exist, or one of the other runs has trained on
            its images.
    """
    given = {name: value for name, value in config["data"].items() if value is not None}
    if given.get("value_range") == "auto":  # as the options of formats have it: it is the model's
        del given["value_range"]
    settings = _settings(given, trained, saved)
    is_own = trained is not None and _describes_own_images(given, trained["data"])
    if not is_own:
        settings["exclude"] = given.get("exclude")  # the run's list names its own images
    if settings["format"] == AUTO:
        settings = _worked_out(settings, given, saved)
    if given.get("batch_size") == "largest":
        raise ConfigError("data.batch_size=largest is searched by a training. Set a number of images.")
    groups = [*data_settings(settings), *data_settings({"format": settings["format"], **given})]
    raise_mistakes(line for group in groups for line in group.type_errors())
    if settings.get("batch_size") == "auto":
        settings["batch_size"] = DataSettings.batch_size
    if settings.get("value_range") is not None:
        check_value_range(settings["value_range"])
    if given.get("cache") is not None:
        raise ConfigError("data.cache keeps images for later epochs, but an evaluation reads each once. Leave it out.")
    _check_classes(given.get("classes"), saved.mask_classes)
    source = build_source(settings)
    if isinstance(settings.get("classes"), Mapping):
        _check_classes(list(source.class_names), saved.mask_classes)
    records = read_records(source, settings)
    slices = config.get("slices")
    if (slices == "group" or (isinstance(slices, list) and "group" in slices)) and not any(r.group for r in records):
        own = trained["data"] if trained is not None and is_own else {}
        records = _with_groups(records, source, own.get("group", DataSettings.group), own_splits if is_own else None)
    if given.get("splits") is not None:
        records = assign_splits(records, read_splits(Path(given["splits"])))
    elif trained is not None and own_splits is not None and is_own:
        if trained["data"].get("splits"):
            records = split_by_file(records, own_splits)
        elif not keeps_split(records, trained["data"]):
            records = restore_splits(records, own_splits)
    split = _choose_split(config["split"], records)
    chosen = [replace(record, split=split) for record in records if split in ("all", record.split)]
    if is_own and split in ("val", "test"):
        _check_unseen(chosen, split, other_splits)
    if not is_own and "splits" not in given and own_splits is not None and own_splits.is_file():
        _warn_of_trained(chosen, split, own_splits)
    channels, value_range = saved.model.backbone.in_channels, settings.get("value_range")
    objects = takes_objects({"task": saved.task})
    data = bundle_datasets(source, chosen, settings, channels, value_range, model_decides=True, with_objects=objects)
    return data, split


def _warn_of_trained(chosen: Sequence[Record], split: str, own_splits: Path) -> None:
    """Warn if most images have the names of those that the run trained on: its data may be given as other data."""
    try:
        trained = read_training_images(own_splits, split)
    except DataError:  # a file that is not needed
        return
    if 2 * (known := sum(record.name in trained for record in chosen)) >= max(1, len(chosen)):
        logger.warning(
            f"{known:,} of {len(chosen):,} images have names that the run trained on; if they are the same, the scores "
            f"are those of images that it has learned. For the run's own split: {typed('data.splits', own_splits)}"
        )


def _with_groups(records: Sequence[Record], source: Source, setting: str | None, splits: Path | None) -> list[Record]:
    """Return records that have no groups with those of a split file, or else with those that the setting finds."""
    rows = read_rows(splits, HEADER, GROUP) if splits is not None and splits.is_file() else ()
    if any((groups := {row[0]: row[2] for row in rows if len(row) == 3}).values()):
        return [replace(record, group=groups.get(record.name, "")) for record in records]
    return with_groups(records, source, setting, is_made=False)[0]


def _settings(given: Mapping[str, Any], trained: Config | None, saved: SavedModel) -> dict[str, Any]:
    """Return the settings of `data`: the given ones, then those of the model, then those of the run."""
    base = trained["data"] if trained is not None else _default_settings()
    if "format" in given:
        base = base if given["format"] == base["format"] else _default_settings(given["format"])
    elif base["format"] not in (*SOURCES, AUTO):
        raise ConfigError(
            f"the run's data.format={base['format']} is code that may come from an untrusted source, and is imported "
            f"only if you name it yourself: data.format={base['format']}"
        )
    elif not set(given) <= {*COMMON_SETTINGS, *_options(base["format"])}:  # images in another format than the run's
        base = _default_settings()
    options = _options(given.get("format", base["format"]))
    classes = given.get("classes", base.get("classes"))
    # a mapping says which labels the classes stand for, which their names alone do not
    facts = {**saved.data, "classes": classes if isinstance(classes, Mapping) else list(saved.mask_classes)}
    return {
        **base,
        "instances": base.get("instances") or saved.data.get("instances") or DataSettings.instances,
        **{option: value for option, value in facts.items() if option in options},
        "value_range": saved.data.get(
            "value_range", trained["data"].get("value_range") if trained is not None else None
        ),
        **{option: value for option, value in given.items() if option != "classes"},
    }


def _worked_out(settings: Mapping[str, Any], given: Mapping[str, Any], saved: SavedModel) -> dict[str, Any]:
    """Return the settings that follow from the files, for the classes of the model."""
    if settings.get("root") is None:
        raise ConfigError("data.root is not set: it is the folder with images and masks to evaluate on.")
    labels = {name: given.get(name) for name in ("ignore_index", "mask_values", "snap")}
    if labels["ignore_index"] is None and saved.data.get("ignore_index") != 255:  # which is worked out as well
        labels["ignore_index"] = saved.data.get("ignore_index")
    found, lines = discovered({**settings, **labels, "classes": list(saved.mask_classes)})
    for line in lines:
        logger.info(line)
    ignored = as_values(found.get("ignore_index", VOID))
    if given.get("ignore_index") is None and not has_colors(found.get("mask_values") or ()):
        numbers = [value for value in ignored if not is_color(value)]
        if len(numbers) < len(ignored):  # the model's color of void is in no mask
            found["ignore_index"] = numbers or VOID
    return found


def _default_settings(format_name: str | None = None) -> dict[str, Any]:
    """Return the settings of a format as `conf/data` has them; those of `finetune train` for None."""
    group = [] if format_name is None else [f"data={format_name if format_name in (*SOURCES, AUTO) else 'custom'}"]
    settings: dict[str, Any] = to_plain_dict(compose(*group))["data"]
    return settings


def _options(format_name: str) -> list[str]:
    if format_name == AUTO:
        return ["root", *LABEL_SETTINGS]
    return list(inspect.signature(source_class(format_name)).parameters)


def _describes_own_images(given: Mapping[str, Any], trained: Mapping[str, Any]) -> bool:
    """Return whether the given settings leave the images of the training unchanged."""
    same_format = given.get("format", trained["format"]) == trained["format"]
    return same_format and set(given) <= {*COMMON_SETTINGS, *LABEL_SETTINGS}


def _check_classes(given: int | Sequence[str] | Mapping[str, Any] | None, classes: Sequence[str]) -> None:
    if isinstance(given, Mapping):
        return  # its classes are compared when the source knows them all
    count = given if isinstance(given, int) or given is None else len(given)
    if count == len(classes) and isinstance(given, list) and given != list(classes):
        raise ConfigError(
            f"the model's classes are {', '.join(classes)}, but data.classes is {', '.join(map(str, given))}. Their "
            f"order is that of the labels in the masks; leave data.classes out to use the model's classes."
        )
    if count is not None and count != len(classes):
        raise ConfigError(
            f"the model has {len(classes)} classes ({', '.join(classes)}), but data.classes declares {count}. Evaluate "
            f"on masks with the model's classes and leave data.classes out, or train a model for the new ones."
        )


def _check_unseen(records: Sequence[Record], split: str, others: Sequence[Path]) -> None:
    for path in others:
        seen = {record.name for record in records} & read_training_images(path, split)
        if seen:
            raise ConfigError(
                f"split={split} of the first run has {len(seen):,} images that another run trained on, by '{path}': "
                f"{shortlist(sorted(seen))}. The score would be too good. Evaluate on images that no run has seen: "
                f"split=test if the runs share it, as data.folds and data.splits make sure, or data.root=OTHER."
            )


def _choose_split(split: str | None, records: Sequence[Record]) -> str:
    splits = {record.split for record in records}
    available = [name for name in ("test", "val", "train") if name in splits]
    if split is None:
        return available[0] if available else "all"
    if split not in (*available, "all"):
        raise ConfigError(f"there is no split '{split}'; the data has {', '.join([*available, 'all'])}.")
    return split
