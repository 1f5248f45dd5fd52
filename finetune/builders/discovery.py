"""Fill in the settings of `data` and `task` that follow from the files."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune.builders.checks.settings import data_settings
from finetune.builders.data import COMMON_SETTINGS, source_class
from finetune.builders.dataset_bundle import DatasetBundle
from finetune.builders.inspection import file_cache, reading_processes
from finetune.config.compose import packaged_options
from finetune.config.errors import ConfigError, raise_mistakes
from finetune.config.options import Config
from finetune.data import SOURCES, DataError
from finetune.data.masks.values import OTHERS, VOID
from finetune.data.options import named_classes
from finetune.data.polygons.class_map import is_background
from finetune.data.recognition.discovery import discover
from finetune.tasks import MultilabelTask, SemanticTask

logger = logging.getLogger(__name__)

AUTO = "auto"
NONE_IGNORED = -1  # a value that no mask has


def work_out_data(config: Config) -> tuple[dict[str, Any], list[str]]:
    """Return the config with the settings of `data` that follow from the files, and a line for each conclusion.

    Settings that are given win. Nothing is worked out for a format that says everything itself.

    Raises:
        ConfigError: `data.root` is not set.
        DataError: the files leave a doubt.
    """
    settings, numbered = with_numbered_objects(config["data"])
    if not _needs_files(settings):
        return {**config, "data": _with_defaults(settings)}, numbered
    if settings.get("root") is None:
        raise ConfigError(
            "data.root is not set: it is the folder with your images and masks. To try things without data of your "
            "own, use data=synthetic."
        )
    try:
        worked_out, lines = discovered(settings)
    except DataError as error:
        if not numbered:
            raise
        raise DataError(f"{error} ({numbered[0]})") from error
    if worked_out.get("multilabel") and config["task"].get("name") == SemanticTask.name:
        worked_out["multilabel"] = False  # a later class is drawn over an earlier one
    raise_mistakes(line for group in data_settings(worked_out) for line in group.type_errors())
    return {**config, "data": _with_defaults(worked_out)}, [*numbered, *lines]


def _with_defaults(settings: Config) -> dict[str, Any]:
    """Return the settings with what sources take for settings of masks that are null, so that the config says it."""
    if settings["format"] not in SOURCES:
        return dict(settings)
    defaults = {"ignore_index": VOID, "snap": False}
    return {key: defaults.get(key) if value is None else value for key, value in settings.items()}


def with_numbered_objects(settings: Config) -> tuple[dict[str, Any], list[str]]:
    """Return the settings of `data` with one class for all values but 0, if these number objects, and a line about it.

    No value is void then unless `data.ignore_index` says so, as some formats do: 255 is the number of an object.

    >>> with_numbered_objects({"instances": "ids", "classes": ["cell"], "ignore_index": None})[0]
    {'instances': 'ids', 'classes': {'background': 0, 'cell': '*'}, 'ignore_index': -1}
    """
    names = named_classes(settings.get("classes"))
    says_values = isinstance(settings.get("classes"), Mapping) or settings.get("mask_values") is not None
    if settings.get("instances") != "ids" or says_values or "classes" not in settings:
        return dict(settings), []
    if len(names) > 1 and not (len(names) == 2 and is_background(names[0])):
        raise ConfigError(
            f"data.classes=[{','.join(names)}] with data.instances=ids: masks that number objects have one class. For "
            f"masks of class * 1000 + number, give the values: data.classes={{{names[0]}: 24, ...}} data.divisor=1000."
        )
    name = names[-1] if names else "object"
    changed = {**settings, "classes": {"background": 0, name: OTHERS}}
    if settings.get("ignore_index") is None:
        changed["ignore_index"] = NONE_IGNORED
    void = "" if changed["ignore_index"] == NONE_IGNORED else f" and {changed['ignore_index']}, which is void,"
    line = f"all values of the masks but 0{void} number objects of the class {name} (data.instances, data.ignore_index)"
    return changed, [line]


def without_unset(config: Config) -> dict[str, Any]:
    """Return the config without the settings of data=auto that are not set, if data.format says the format."""
    settings = config["data"]
    if settings.get("format") == AUTO or not packaged_options("data")[AUTO].keys() <= settings.keys():
        return dict(config)
    kept = {"root", "classes", *COMMON_SETTINGS}
    return {**config, "data": {key: value for key, value in settings.items() if value is not None or key in kept}}


def discovered(settings: Config) -> tuple[dict[str, Any], list[str]]:
    """Return the settings of `data` with those that follow from the files below `data.root`, and the conclusions."""
    common = {key: value for key, value in settings.items() if key in COMMON_SETTINGS}
    given = {key: value for key, value in settings.items() if key not in common and value is not None}
    if settings["format"] != AUTO:
        given["format"] = settings["format"]
    exclude = Path(settings["exclude"]) if settings.get("exclude") else None
    found = discover(Path(given.pop("root")), given, file_cache(settings), exclude, reading_processes(settings))
    return {**found.settings, **{key: value for key, value in common.items() if key != "format"}}, found.lines


def _needs_files(settings: Config) -> bool:
    if settings["format"] == AUTO:
        return True
    has_no_classes = "classes" in settings and settings["classes"] is None
    return (
        has_no_classes and settings.get("root") is not None and hasattr(source_class(settings["format"]), "recognize")
    )


def resolve_task(config: Config, data: DatasetBundle) -> dict[str, Any]:
    """Return the config with the task that the masks need, if it is `auto`, and with a loss for it."""
    if config["task"].get("name") != AUTO:
        return dict(config)
    name = MultilabelTask.name if data.multilabel else SemanticTask.name
    resolved = {**config, "task": _packaged("task", name)}
    is_default_loss = config["loss"] == _packaged("loss", "ce_dice")
    return {**resolved, "loss": _packaged("loss", "bce_dice")} if data.multilabel and is_default_loss else resolved


def _packaged(group: str, option: str) -> dict[str, Any]:
    return dict(packaged_options(group)[option])
