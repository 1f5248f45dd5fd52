"""Checks of what trains: optimizer, schedule, Lightning's Trainer, and whether they go together."""

import math

import lightning.pytorch as pl
import torch
from timm.optim import create_optimizer_v2, list_optimizers

from finetune.builders.data import DatasetBundle
from finetune.builders.devices import device_count, runs_on_cpu
from finetune.builders.training_length import step_counts
from finetune.config.errors import ConfigError
from finetune.config.options import Config, drop_name, validate_options
from finetune.engine.fsdp import PRECISIONS, steps_on_shares
from finetune.io.messages import suggest
from finetune.tuning.schedules import SCHEDULES, schedule

LONGEST = 10**9  # steps: how long the training is, is not known before its data is


def check_length(config: Config, data: DatasetBundle) -> None:
    """Raise where the schedule does not fit into the steps of the training."""
    pace, (_, total) = config["schedule"], step_counts(config, data.sizes()["train"])
    try:
        schedule(pace["name"], total, pace["warmup"], **drop_name(pace, "warmup"))
    except ValueError as error:
        raise ConfigError(f"schedule: {error}") from error


def check_optimizer(settings: Config) -> None:
    """Raise unless timm knows the optimizer and its numbers make sense."""
    names = list_optimizers()
    if settings["name"] not in names:
        raise ConfigError(f"unknown optimizer '{settings['name']}'. {suggest(settings['name'], names)}")
    known = ("name", "lr", "weight_decay", "options")
    if unknown := [key for key in settings if key not in known]:
        raise ConfigError(
            f"optimizer has unknown options: '{unknown[0]}'. {suggest(unknown[0], known)} Further arguments of "
            f"{settings['name']} go into its options: +optimizer.options.{unknown[0]}={settings[unknown[0]]}"
        )
    for key, low in (("lr", 0.0), ("weight_decay", 0.0)):
        value = settings[key]
        if key in settings["options"]:
            raise ConfigError(
                f"optimizer.options.{key} has no effect: each group of parameters has its own. Set optimizer.{key}."
            )
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value < math.inf:
            raise ConfigError(f"optimizer.{key}={value}: expected a number of 0 or more.")
    try:
        create_optimizer_v2(
            [torch.nn.Parameter(torch.zeros(2, 2))], settings["name"], settings["lr"], **settings["options"]
        )
    except TypeError as error:
        raise ConfigError(f"optimizer.options={settings['options']} do not suit {settings['name']}: {error}") from error


def check_schedule(settings: Config) -> None:
    """Raise unless the schedule and its options are known."""
    if settings["name"] not in SCHEDULES:
        raise ConfigError(f"unknown schedule '{settings['name']}'. {suggest(settings['name'], list(SCHEDULES))}")
    schedule(settings["name"], LONGEST, settings["warmup"], **drop_name(settings, "warmup"))


def check_trainer(settings: Config) -> None:
    """Raise unless Lightning's Trainer has all these arguments."""
    validate_options("trainer", pl.Trainer.__init__, settings, skip=("self", "callbacks", "logger", "default_root_dir"))
    clip = settings.get("gradient_clip_algorithm")
    if clip not in (None, "norm", "value"):
        raise ConfigError(f"trainer.gradient_clip_algorithm={clip}: choose norm or value.")
    if settings.get("sync_batchnorm") and device_count(settings) > 1 and runs_on_cpu(settings):
        raise ConfigError("trainer.sync_batchnorm=true: torch synchronizes batch norms on GPUs alone. Take it away.")


def check_sharding(config: Config) -> None:
    """Raise where trainer.strategy=fsdp2 meets settings that it would break or ignore."""
    settings, optimizer = config["trainer"], config["optimizer"]
    if settings["strategy"] != "fsdp2":
        return
    known = optimizer["name"] in list_optimizers()
    hindrances = [
        (
            str(settings["precision"]) not in ("auto", "32", "bf16", *PRECISIONS),
            f"trainer.precision={settings['precision']} (set bf16-mixed, bf16-true or 32-true)",
        ),
        (
            known and not steps_on_shares(optimizer["name"], optimizer["options"]),
            f"optimizer.name={optimizer['name']} with its options, which needs whole weights (set adamw, sgd or lamb)",
        ),
        (bool(config["callbacks"].get("average")), "an average of whole weights (set average=none)"),
        (
            config["tuning"]["plateau"]["restore_best"],
            "tuning.plateau.restore_best=true, which keeps whole weights (set false)",
        ),
        (settings.get("sync_batchnorm"), "trainer.sync_batchnorm=true, which Lightning would ignore (take it away)"),
    ]
    if found := [what for there, what in hindrances if there]:
        raise ConfigError(f"trainer.strategy=fsdp2 does not work with {'; nor with '.join(found)}. Or set ddp.")
