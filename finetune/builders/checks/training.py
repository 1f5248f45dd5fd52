"""Finds every mistake in a training config at once, before any weight is read or file written."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from finetune.builders.checks.trainer import (
    check_length,
    check_optimizer,
    check_schedule,
    check_sharding,
    check_trainer,
)
from finetune.builders.checks.tuning import check_average, check_tuning
from finetune.builders.checks.value_types import type_errors
from finetune.builders.data import DatasetBundle, training_data
from finetune.builders.devices import device_count
from finetune.builders.dummy_step import layer_without_variance
from finetune.builders.loss import build_loss, check_class_weights, find_loss
from finetune.builders.model import auxiliary_options
from finetune.builders.task import find_task, restore_output, task_settings
from finetune.config.compose import packaged_options
from finetune.config.errors import ConfigError, Mistakes
from finetune.config.options import Config, drop_name, validate_options
from finetune.data.decode import MODES
from finetune.data.statistics import class_weights
from finetune.io.messages import suggest
from finetune.losses import LOSSES
from finetune.models.feature_levels import COARSEST
from finetune.models.heads import HEADS, AuxiliaryHead, PyramidSpec, check_output_stride, head_spec
from finetune.models.normalization import check_statistics
from finetune.models.timm_factory import check_name

logger = logging.getLogger(__name__)
# maps that every head takes with all of its options; what a backbone has of them is known once it is built
RICH = PyramidSpec((3, 128, 256, 512, 512, 512), (1, 2, 4, 8, 16, 32), pools=(64, 128, 256, 512, 512), tokens=1)


def check(config: Config) -> DatasetBundle:
    """Find every mistake in a training config before any weight is read, and return the data it speaks of.

    Raises:
        ConfigError: with all that was found.
    """
    mistakes = Mistakes()
    check_settings(config, mistakes)
    found: DatasetBundle | None = mistakes.attempt(lambda: training_data(config))
    if found is not None:
        mistakes.attempt(lambda: check_monitors(config, found.classes))
        mistakes.attempt(lambda: check_targets(config, found))
        mistakes.attempt(lambda: check_numbers_per_class(config, found.classes))
        mistakes.attempt(lambda: check_batches(config, found))
    mistakes.raise_any()
    assert found is not None
    check_length(config, found)
    return found


def check_settings(config: Config, mistakes: Mistakes) -> None:
    """Collect every mistake that shows without looking at the data.

    Raises:
        ConfigError: settings of another kind than what reads them expects, before anything does.
    """
    check_kind(config["data"])
    for line in type_errors(config):
        mistakes.add(line)
    mistakes.raise_any()
    mistakes.attempt(lambda: check_numbers(config))
    mistakes.attempt(lambda: check_data(config["data"]))
    mistakes.attempt(lambda: check_backbone(config["backbone"]))
    mistakes.attempt(lambda: check_head(config["head"], config["data"]["batch_size"], config["backbone"]))
    mistakes.attempt(lambda: check_auxiliary(config))
    mistakes.attempt(lambda: check_auxiliary_weight(config))
    mistakes.attempt(lambda: check_loss(config["loss"]))
    mistakes.attempt(lambda: check_task(config))
    mistakes.attempt(lambda: check_tuning(config["tuning"], config["schedule"]))
    mistakes.attempt(lambda: check_average(config["tuning"]["plateau"], config["callbacks"]))
    mistakes.attempt(lambda: check_optimizer(config["optimizer"]))
    mistakes.attempt(lambda: check_schedule(config["schedule"]))
    mistakes.attempt(lambda: check_trainer(config["trainer"]))
    mistakes.attempt(lambda: check_sharding(config))


def check_numbers(config: Config) -> None:
    """Raise where a count is none."""
    least = {"data.batch_size": 1, "data.num_workers": 0, "data.ignore_index": 0, "seed": 0}
    least |= {"trainer.max_epochs": 1, "trainer.accumulate_grad_batches": 1}
    least |= {"data.count": 1, "data.size": 16} if config["data"]["format"] == "synthetic" else {}
    for key, low in least.items():
        value: Any = config
        for name in key.split("."):
            value = value[name]
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, bool) or not isinstance(number, int) or number < low:
                raise ConfigError(f"{key}={value}: expected a whole number of {low} or more.")
    if not isinstance(config["name"], str) or not config["name"]:
        raise ConfigError(f"name={config['name']}: expected a word; the run folder is named after it.")
    if config["data"]["ignore_index"] > 255:
        raise ConfigError(f"data.ignore_index={config['data']['ignore_index']}: masks are 8-bit, so it is 255 at most.")
    if config["seed"] >= 2**32:
        raise ConfigError(f"seed={config['seed']}: expected a number below {2**32}.")
    if config["backbone"]["in_channels"] not in MODES:
        known = ", ".join(map(str, MODES))
        raise ConfigError(f"backbone.in_channels={config['backbone']['in_channels']}: images are read with {known}.")


def check_kind(settings: Config) -> None:
    """Raise unless there is such data."""
    kinds = [kind for kind in packaged_options("data") if kind != "from_run"]
    if settings["format"] not in kinds:
        raise ConfigError(f"unknown data.format '{settings['format']}'. {suggest(str(settings['format']), kinds)}")


def check_data(settings: Config) -> None:
    """Raise where the data has a setting that its kind does not."""
    names = list(packaged_options("data")[settings["format"]])
    if unknown := [name for name in settings if name not in names]:
        raise ConfigError(f"data has unknown options: '{unknown[0]}': {suggest(unknown[0], names)}")


def check_backbone(settings: Config) -> None:
    """Raise unless timm knows the backbone."""
    if not settings["name"]:
        raise ConfigError("backbone.name is not set. Set it to a timm model, such as backbone.name=densenet121.")
    check_name(settings["name"])
    check_statistics(settings["in_channels"], mean=settings.get("mean"), std=settings.get("std"))


def check_head(settings: Config, batch_size: int, backbone: Config) -> None:
    """Raise unless the head is known, its options make one, and the batch is large enough for its norms."""
    kind = head_spec(settings["name"])
    options = validate_options("head", kind.build, drop_name(settings), skip=("pyramid", "classes"))
    check_output_stride(settings["name"], output_stride := backbone.get("output_stride"))
    strides = tuple(min(stride, output_stride or COARSEST) for stride in RICH.strides)
    with torch.device("meta"):  # whatever its size, it takes no memory
        kind.build(replace(RICH, strides=strides), 2, **options)
    if kind.pools_to_a_pixel and batch_size == 1:
        raise ConfigError(
            f"data.batch_size=1 does not train head={settings['name']}: its pooling leaves batch norm one value a "
            f"channel, which has no variance. Set data.batch_size=2 or more, or another head."
        )


def check_auxiliary(config: Config) -> None:
    """Raise unless the options make an auxiliary head, or there is none and nothing is said of one."""
    options = auxiliary_options(config)
    if options is not None:
        known = validate_options("auxiliary", AuxiliaryHead, options, skip=("pyramid", "classes"))
        with torch.device("meta"):
            AuxiliaryHead(RICH, 2, **known)
        return
    usual = packaged_options("auxiliary")["none"]
    for key, value in (config.get("auxiliary") or {}).items():
        if value != usual.get(key):
            raise ConfigError(f"auxiliary.{key}={value} has no effect without an auxiliary head. Say auxiliary=fcn.")


def check_auxiliary_weight(config: Config) -> None:
    """Raise if the weight of auxiliary outputs was changed, and the model has none."""
    head, usual = config["head"], packaged_options("loss")["ce_dice"]["auxiliary_weight"]
    spec = HEADS.get(head["name"])  # an unknown head is reported by another check
    has_auxiliary = spec is None or (spec.auxiliary and head.get("deep_supervision", True))
    given = config["loss"].get("auxiliary_weight", usual)
    if given != usual and not has_auxiliary and auxiliary_options(config) is None:
        raise ConfigError(
            f"loss.auxiliary_weight={given} has no effect: the model has no auxiliary outputs. Set auxiliary=fcn, "
            f"or head=ocr, or head=unet with head.deep_supervision=true."
        )


def check_loss(settings: Config) -> None:
    """Raise unless the loss, its options and its class weights make sense, whatever the classes are."""
    build_loss(settings, 255, None)
    weights = settings.get("class_weights", "none")
    if isinstance(weights, str):
        class_weights(torch.ones(2, dtype=torch.int64), weights)
    else:
        check_class_weights(weights)


def check_task(config: Config) -> None:
    """Raise unless the task and its options are known, and the loss fits it."""
    settings = task_settings(config)
    task, loss = find_task(settings), find_loss(config["loss"])
    if not task.accepts(loss):
        fitting = [name for name, other in LOSSES.items() if task.accepts(other)]
        raise ConfigError(
            f"loss={config['loss']['name']} does not fit task={settings['name']}. Choose from: {', '.join(fitting)}."
        )


def check_targets(config: Config, data: DatasetBundle) -> None:
    """Raise unless the data has masks as the task needs them."""
    task = find_task(task_settings(config))
    task.check_target(data.datasets["train"][0]["mask"], data.classes, data.ignore_index)


def check_numbers_per_class(config: Config, classes: Sequence[str]) -> None:
    """Raise unless the task's options, such as thresholds, and weights given by hand fit the classes."""
    restore_output(task_settings(config), classes)
    weights = config["loss"].get("class_weights", "none")
    if not isinstance(weights, str):
        check_class_weights(weights, classes)


def check_batches(config: Config, data: DatasetBundle) -> None:
    """Raise where a model that pools to one pixel would get a batch of one image."""
    devices = device_count(config["trainer"])
    per_device = data.sizes()["train"] // devices
    batch = min(config["data"]["batch_size"], per_device)
    if per_device == 0:
        raise ConfigError(f"{data.sizes()['train']} training images are too few for {devices} devices.")
    if batch == 1 and head_spec(config["head"]["name"]).pools_to_a_pixel and config["data"]["batch_size"] > 1:
        raise ConfigError(
            f"one training image a device makes batches of one, whose batch norm head={config['head']['name']} "
            f"cannot train. Add images, use fewer devices, or another head."
        )
    if batch == 1 and (layer := layer_without_variance(config, data.classes)):
        raise ConfigError(
            f"batches of one image do not train backbone={config['backbone']['name']} with "
            f"head={config['head']['name']}: they leave the batch norm {layer} one value a channel, which has no "
            f"variance. Set data.batch_size=2 or more, with at least as many images a device, or another backbone."
        )
    if batch == 1:
        logger.warning("batches of one image make batch-norm statistics noisy; data.batch_size=2 or more is better.")


def check_monitors(config: Config, classes: Sequence[str]) -> None:
    """Raise if a callback, the plan or the schedule monitors a value that a validation does not log."""
    evaluator = find_task(task_settings(config)).evaluator_type(classes)
    values = [f"val/{name}" for name in ("loss", *evaluator.compute(evaluator.counts()))]  # train/loss comes later
    monitors = {f"callbacks.{name}.monitor": config["callbacks"].get(name) for name in ("early_stopping", "checkpoint")}
    monitors |= {"tuning.plateau.monitor": _used_plateau(config["tuning"]), "schedule.monitor": config["schedule"]}
    for key, settings in monitors.items():
        monitor = (settings or {}).get("monitor")
        if monitor is not None and monitor not in values:
            raise ConfigError(f"{key}='{monitor}' is not logged by a validation. {suggest(monitor, values)}")
        if monitor == "val/loss" and settings["mode"] == "max" and not key.startswith("callbacks."):
            raise ConfigError(f"{key}=val/loss with mode=max: a higher loss is not better. Set {key[:-7]}mode=min.")


def _used_plateau(settings: Config) -> Config:
    """Return the plateau settings, unless they are the defaults and no rule waits for a plateau."""
    plateau: Config = settings["plateau"]
    is_default = plateau == packaged_options("tuning")["full"]["plateau"]
    return {} if is_default and "plateau" not in str([settings["rules"], settings["unfreeze_at"]]) else plateau
