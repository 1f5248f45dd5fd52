"""Check the names and types of all settings against the constructors that take them."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import lightning.pytorch as pl

from finetune import callbacks as own_callbacks
from finetune.builders.data import COMMON_SETTINGS, source_class
from finetune.builders.model import auxiliary_options
from finetune.builders.settings import (
    BackboneSettings,
    Choice,
    DataSettings,
    OptimizerSettings,
    RecipeSettings,
    TuningSettings,
)
from finetune.builders.task import GIVEN, task_settings
from finetune.builders.transform import transform_constructor
from finetune.callbacks import Checkpoint
from finetune.config.compose import packaged_options
from finetune.config.errors import ConfigError
from finetune.config.nested import MISSING, remove, select
from finetune.config.options import Config, drop_name
from finetune.config.settings import Settings
from finetune.data import Mix
from finetune.losses import LOSSES
from finetune.models.heads import HEADS, AuxiliaryHead
from finetune.models.instance_heads import INSTANCE_HEADS, FeaturePyramid
from finetune.models.lora import add_lora
from finetune.models.views import Views
from finetune.tasks import TASKS
from finetune.tuning.plan import PlateauCriterion
from finetune.tuning.schedules import SCHEDULES

# settings without which a training cannot be built: those of these options, or the listed ones
NEEDED: dict[str, str | tuple[str, ...]] = {
    "backbone": "timm",
    "data": ("format", "batch_size", "num_workers"),
    "optimizer": "adamw",
    "schedule": ("name", "warmup"),
    "tuning": "full",
    "trainer": "default",
}
LATER = ("backbone.reduce",)  # which runs of earlier versions lack


def removed_settings(config: Config) -> list[str]:
    """Return a line for every setting that a training needs and that is not there, because `~` removed it."""
    lines = []
    for group, needed in NEEDED.items():
        names = packaged_options(group)[needed] if isinstance(needed, str) else needed
        missing = [f"{group}.{name}" for name in names if name not in config[group]]
        lines += [f"{key} is missing, but a training needs it." for key in missing if key not in LATER]
    if isinstance(config["tuning"].get("plateau"), Mapping):
        names = packaged_options("tuning")["full"]["plateau"]
        lines += [f"tuning.plateau.{name} is missing." for name in names if name not in config["tuning"]["plateau"]]
    return lines


def type_errors(config: Config) -> list[str]:
    """Return a line for every setting of a training that has another type than its reader expects."""
    lines = [line for settings in _all_settings(config) for line in settings.type_errors()]
    return [line + _of_experiment(line.partition("=")[0], config) for line in lines]


def split_unknown(config: Config) -> tuple[dict[str, Any], list[str]]:
    """Return the config without the settings that have no reader, and a line for each of them."""
    unknown = {key: line for settings in _all_settings(config) for key, line in settings.unknown().items()}
    known: dict[str, Any] = copy.deepcopy(dict(config))
    for key in unknown:
        remove(known, key)
    return known, [line + _of_experiment(key, config) for key, line in unknown.items()]


def _of_experiment(key: str, config: Config) -> str:
    """Return how to take out a setting that has the value of an experiment, and was hardly typed."""
    value = select(config, key)
    is_there = value is not MISSING and any(select(e, key) == value for e in packaged_options("experiment").values())
    return f" If an experiment sets it, ~{key} takes it out." if is_there else ""


def _all_settings(config: Config) -> Iterator[Settings]:
    """Yield the settings of each group of a training with their constructor.

    A head, loss or schedule that does not exist is left out: its name is checked elsewhere.
    """
    for group in ("head", "loss", "schedule"):
        yield Settings(group, {"name": config[group].get("name")}, Choice)
    yield from data_settings(config["data"])
    yield Settings("backbone", config["backbone"], BackboneSettings)
    yield Settings("optimizer", config["optimizer"], OptimizerSettings)
    yield Settings("checkpoint", config["checkpoint"], Checkpoint)
    yield Settings("trainer", config["trainer"], pl.Trainer, ("callbacks", "logger", "default_root_dir"))
    yield from _callback_settings(config["callbacks"])
    yield Settings("tuning", config["tuning"], TuningSettings)
    yield Settings("tuning.plateau", _group(config["tuning"].get("plateau")), PlateauCriterion)
    yield Settings("tuning.lora", _group(config["tuning"].get("lora")), add_lora, ("model",))
    if config["head"].get("name") in HEADS:
        yield Settings("head", drop_name(config["head"]), HEADS[config["head"]["name"]].build, ("pyramid", "classes"))
    if config["head"].get("name") in INSTANCE_HEADS:
        own = ("strides", "channels", "classes")
        of_head = {key: value for key, value in drop_name(config["head"]).items() if key != "channels"}
        yield Settings("head", {"channels": config["head"].get("channels", 128)}, FeaturePyramid, ("pyramid",))
        yield Settings("head", of_head, INSTANCE_HEADS[config["head"]["name"]], own)
    if options := auxiliary_options(config):
        yield Settings("auxiliary", options, AuxiliaryHead, ("pyramid", "classes"))
    yield view_settings(_group(config.get("tta")))  # runs of earlier versions have neither
    yield Settings("recipe", _group(config.get("recipe")), RecipeSettings)
    if config["schedule"].get("name") in SCHEDULES:
        yield Settings("schedule", drop_name(config["schedule"]), SCHEDULES[config["schedule"]["name"]], ("total",))
    if config["loss"].get("name") in LOSSES:
        yield Settings("loss", _loss_options(config["loss"]), LOSSES[config["loss"]["name"]], ("ignore_index",))
    if (task := task_settings(config)).get("name") in TASKS:
        yield Settings("task", drop_name(task), TASKS[task["name"]], GIVEN)
    yield from _augment_settings(config["augment"])


def view_settings(settings: Config) -> Settings:
    """Return the settings of the test-time augmentation."""
    return Settings("tta", settings, Views)


def data_settings(settings: Config) -> Iterator[Settings]:
    """Yield what all formats have in common, and the options of the source unless the format is unknown."""
    common = {key: value for key, value in settings.items() if key in COMMON_SETTINGS}
    yield Settings("data", common, DataSettings)
    with suppress(ConfigError):
        options = {key: value for key, value in settings.items() if key not in COMMON_SETTINGS}
        yield Settings("data", options, source_class(settings["format"]))


def _callback_settings(callbacks: Config) -> Iterator[Settings]:
    """Yield the options of the callbacks of this package; others may take anything."""
    for name, entry in callbacks.items():
        target = str(entry.get("_target_")) if isinstance(entry, dict) else ""
        constructor = getattr(own_callbacks, target.rpartition(".")[2], None)
        if target.startswith("finetune.callbacks.") and constructor is not None:
            options = {key: value for key, value in entry.items() if key != "_target_"}
            yield Settings(f"callbacks.{name}", options, constructor)


def _augment_settings(settings: Config) -> Iterator[Settings]:
    """Yield the options of the mixing, and those of the transform if its `_target_` can be imported."""
    yield Settings("augment.mix", _group(settings.get("mix")), Mix, ("ignore_index",))
    with suppress(ConfigError):
        options = {key: value for key, value in settings.items() if key not in ("_target_", "mix")}
        yield Settings("augment", options, transform_constructor(settings), ("ignore_index",))


def _loss_options(settings: Config) -> Config:
    """Return the options of a loss; class weights that are no list, such as a rule, are checked elsewhere."""
    is_list = isinstance(settings.get("class_weights"), list)
    options = drop_name(settings)
    return {**options, "class_weights": None} if "class_weights" in options and not is_list else options


def _group(settings: Any) -> Config:
    return settings if isinstance(settings, dict) else {}
