"""Check optimizer, schedule, Lightning's Trainer, and whether they go together."""

import logging
import math
import os
from collections.abc import Mapping

import lightning.pytorch as pl
import torch
from hydra.errors import HydraException
from hydra.utils import instantiate
from lightning.pytorch.loggers import Logger
from timm.optim import create_optimizer_v2, get_optimizer_info, list_optimizers

from finetune.builders.checks.monitors import is_foreign
from finetune.builders.data import takes_objects
from finetune.builders.dataset_bundle import DatasetBundle
from finetune.builders.devices import device_count, device_type, runs_on_cpu
from finetune.builders.targets import check_target
from finetune.builders.training_length import step_counts
from finetune.config.compose import packaged_options
from finetune.config.errors import ConfigError, mistakes_of, raise_mistakes
from finetune.config.options import Config, drop_name
from finetune.config.settings import Settings
from finetune.engine.fsdp import PRECISIONS, steps_on_shares
from finetune.io.messages import suggest
from finetune.recipe.budget import read_budget
from finetune.tuning.schedules import SCHEDULES, schedule

# options of timm's factory that make groups, which are made here
OWN_OPTIONS = {"layer_decay", "filter_bias_and_bn", "param_group_fn"}
# options of the Trainer that change an evaluation
IN_EVALUATION = {
    *("accelerator", "strategy", "devices", "num_nodes", "precision", "limit_test_batches", "deterministic"),
    *("benchmark", "inference_mode", "profiler", "detect_anomaly", "plugins", "enable_progress_bar"),
}
# callbacks of Lightning that are refused -> why, and the setting that does the same
REFUSED_CALLBACKS = {
    "BatchSizeFinder": ("loads a checkpoint of its own", "data.batch_size=largest, which searches before the training"),
    "LearningRateFinder": ("loads a checkpoint of its own", "optimizer.lr=auto, which searches before the training"),
    "StochasticWeightAveraging": ("adds an epoch and has rates of its own", "average=swa"),
}
# variables of the environment in which torchrun, SLURM, MPI or LSF start processes on several nodes
STARTERS = ("MASTER_ADDR", "SLURM_JOB_ID", "OMPI_COMM_WORLD_SIZE", "PMI_RANK", "LSB_JOBID")
logger = logging.getLogger(__name__)

ANY_LENGTH = 10**9  # steps: the length of the training is not known before its data is


def check_length(config: Config, data: DatasetBundle) -> None:
    """Raise a ConfigError if the schedule does not fit into the steps of the training."""
    settings, (_, total) = config["schedule"], step_counts(config, data.sizes()["train"])
    try:
        schedule(settings["name"], total, settings["warmup"], **drop_name(settings, "warmup"))
    except ValueError as error:
        raise ConfigError(f"schedule: {error}") from error


def check_budget(config: Config) -> None:
    """Raise a ConfigError unless the budget is a time or a number of steps, and nothing else sets the length."""
    text, settings = config.get("budget"), config["trainer"]
    if text is None:
        return
    try:
        budget = read_budget(text)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if given := [key for key in ("max_epochs", "max_steps") if settings.get(key, "auto") not in ("auto", -1)]:
        open_value = {"max_epochs": "auto", "max_steps": -1}[given[0]]
        raise ConfigError(
            f"budget={text} and trainer.{given[0]}={settings[given[0]]} both set the length. Leave one of them "
            f"out. If an experiment sets trainer.{given[0]}, add trainer.{given[0]}={open_value}."
        )
    average = config["callbacks"].get("average")
    average = average.get("_target_", "") if isinstance(average, Mapping) else ""
    if budget.seconds and average.endswith(".SWA"):
        raise ConfigError(
            f"budget={text}: average=swa passes over all training images before validations, which no time is kept "
            f"for. Set a number of steps, such as budget=2000steps, or average=ema."
        )
    if budget.seconds and device_count(settings) > 1:
        raise ConfigError(
            f"budget={text}: steps are timed on one device, but trainer.devices={settings['devices']}. Set a number of "
            f"steps, such as budget=2000steps."
        )


def check_optimizer(config: Config) -> None:
    """Raise a ConfigError unless timm knows the optimizer and its numbers make sense."""
    settings, names = config["optimizer"], list_optimizers()
    if settings["name"] not in names:
        raise ConfigError(f"unknown optimizer '{settings['name']}'. {suggest(settings['name'], names)}")
    for key in ("lr", "weight_decay"):
        if key in settings["options"]:
            raise ConfigError(
                f"optimizer.options.{key} has no effect: each group of parameters has its own. Set optimizer.{key}."
            )
        if not 0 <= settings[key] < math.inf:
            raise ConfigError(f"optimizer.{key}={settings[key]}: expected a number of 0 or more.")
    if unused := sorted(OWN_OPTIONS & set(settings["options"])):
        raise ConfigError(
            f"optimizer.options.{unused[0]} has no effect: parameters have groups already. Set tuning.layer_lr_decay "
            f"for rates by layer; norms and biases have no weight decay."
        )
    if "momentum" in settings["options"] and not get_optimizer_info(settings["name"]).has_momentum:
        raise ConfigError(f"optimizer.options.momentum has no effect on {settings['name']}. Leave it out.")
    try:
        _step_once(settings, device_type(config))
    except Exception as error:  # an optimizer may raise anything
        options = f" with optimizer.options={settings['options']}" if settings["options"] else ""
        raise ConfigError(
            f"optimizer.name={settings['name']}{options} cannot train: {error or type(error).__name__}. Change the "
            f"options, or set another optimizer."
        ) from error


def _step_once(settings: Config, device: str) -> None:
    """Train two small parameters for one step, since some optimizers fail only then."""
    parameters = [torch.nn.Parameter(torch.ones(shape, device=device)) for shape in ((2, 2), (2,))]
    optimizer = create_optimizer_v2(parameters, settings["name"], settings["lr"], **settings["options"])
    with torch.enable_grad():
        torch.autograd.backward([parameter.square().sum() for parameter in parameters])
    optimizer.step()


def check_schedule(config: Config) -> None:
    """Raise a ConfigError unless the schedule and its options are known."""
    settings = config["schedule"]
    if settings["name"] not in SCHEDULES:
        raise ConfigError(f"unknown schedule '{settings['name']}'. {suggest(settings['name'], list(SCHEDULES))}")
    schedule(settings["name"], ANY_LENGTH, settings["warmup"], **drop_name(settings, "warmup"))


def check_trainer(config: Config) -> None:
    """Raise a ConfigError if options of Lightning's Trainer do not go together."""
    settings = config["trainer"]
    clip = settings.get("gradient_clip_algorithm")
    if clip not in (None, "norm", "value"):
        raise ConfigError(f"trainer.gradient_clip_algorithm={clip}: choose norm or value.")
    if settings.get("overfit_batches") and device_count(settings) > 1:
        raise ConfigError(
            f"trainer.overfit_batches={settings['overfit_batches']}: all devices would train on the same images. Set "
            f"trainer.devices=1, or trainer.limit_train_batches instead."
        )
    if settings.get("sync_batchnorm") and device_count(settings) > 1 and runs_on_cpu(settings):
        raise ConfigError("trainer.sync_batchnorm=true: torch synchronizes batch norms on GPUs only. Leave it out.")


def check_trainer_numbers(config: Config) -> None:
    """Raise a ConfigError if a number of the Trainer is out of its range, or means waiting for ever."""
    settings = config["trainer"]
    if not_numbers := [key for key, value in settings.items() if isinstance(value, float) and math.isnan(value)]:
        raise ConfigError(f"trainer.{not_numbers[0]}=nan: expected a number.")
    ranges = {"check_val_every_n_epoch": "1 or more", "val_check_interval": "more than 0", "num_nodes": "1 or more"}
    ranges |= {"limit_train_batches": "more than 0"}
    for key, expected in ranges.items():
        value = settings.get(key)
        if isinstance(value, int | float) and value <= 0:
            raise ConfigError(f"trainer.{key}={value}: expected {expected}.")
    steps = settings.get("max_steps", -1)
    if isinstance(steps, int) and steps < 1 and steps != -1:
        raise ConfigError(
            f"trainer.max_steps={steps}: expected 1 or more, or -1 for as many as trainer.max_epochs has."
        )
    if (overfit := settings.get("overfit_batches") or 0) < 0:
        raise ConfigError(f"trainer.overfit_batches={overfit}: expected 0, for none, or more.")
    if settings.get("num_nodes", 1) > 1 and not any(name in os.environ for name in STARTERS):
        raise ConfigError(
            f"trainer.num_nodes={settings['num_nodes']}: nothing has started this process on several nodes, so it "
            f"would wait for the others for ever. Start it with torchrun or srun."
        )
    threshold = settings.get("gradient_clip_val")
    if isinstance(threshold, int | float) and threshold < 0:
        raise ConfigError(f"trainer.gradient_clip_val={threshold}: expected a number above 0, or null for no clipping.")


def check_evaluation_trainer(settings: Config) -> None:
    """Raise a ConfigError if options of the Trainer have another type, no effect on an evaluation, or leave none."""
    trainer = Settings("trainer", settings, pl.Trainer, ("callbacks", "logger", "default_root_dir"))
    raise_mistakes([*trainer.unknown().values(), *trainer.type_errors()])
    defaults = packaged_options("trainer")["default"]
    raise_mistakes(
        f"trainer.{key}={value} has no effect on an evaluation. Leave it out."
        for key, value in settings.items()
        if key not in IN_EVALUATION and value != defaults.get(key)
    )
    limit = settings.get("limit_test_batches")
    if limit is not None and (isinstance(limit, float) or limit < 1):
        raise ConfigError(f"trainer.limit_test_batches={limit}: expected a whole number of batches, 1 or more.")


def check_callbacks(config: Config) -> None:
    """Raise a ConfigError unless callbacks and loggers name a class that fits a training, and ours can be built."""
    mistakes = []
    for group, base, check in (("callbacks", pl.Callback, _check_callback), ("logger", Logger, _check_class)):
        for name, entry in (config[group] or {}).items():
            if entry is not None:
                check_target(entry, base, f"{group}.{name}")
                mistakes += mistakes_of((check,), f"{group}.{name}", entry)
    raise_mistakes(mistakes)


def _check_callback(key: str, entry: Config) -> None:
    _check_class(key, entry)
    if is_foreign(entry):
        return  # it may do something when it is built, which is once
    known = {"monitor": "val/loss", "mode": "auto"} if {"monitor", "mode"} <= entry.keys() else {}  # checked elsewhere
    try:
        instantiate({**entry, **known}, _convert_="all")
    except HydraException as error:
        raise ConfigError(f"{key}: {error.__cause__ or error}") from error


def _check_class(key: str, entry: Config) -> None:
    class_name = entry["_target_"].rpartition(".")[2]
    if class_name in REFUSED_CALLBACKS:
        reason, setting = REFUSED_CALLBACKS[class_name]
        raise ConfigError(f"{key}: Lightning's {class_name} {reason}. Set {setting}.")
    if class_name == "GradientAccumulationScheduler":
        logger.warning(f"{key}: the learning-rate schedule counts a step per batch, so it will not reach its end.")


def check_sharding(config: Config) -> None:
    """Raise a ConfigError if trainer.strategy=fsdp2 meets settings that it would break or ignore."""
    settings, optimizer = config["trainer"], config["optimizer"]
    if str(settings["strategy"]).startswith("fsdp") and settings["strategy"] != "fsdp2":
        raise ConfigError(
            f"trainer.strategy={settings['strategy']} shards in torch's first way, which is not supported. Set fsdp2."
        )
    if settings["strategy"] != "fsdp2":
        return
    is_known = optimizer["name"] in list_optimizers()
    conflicts = [
        (
            str(settings["precision"]) not in ("auto", "32", "bf16", *PRECISIONS),
            f"trainer.precision={settings['precision']} (set bf16-mixed, bf16-true or 32-true)",
        ),
        (
            is_known and not steps_on_shares(optimizer["name"], optimizer["options"]),
            f"optimizer.name={optimizer['name']} with its options, which needs unsharded weights (set adamw, sgd or "
            f"lamb)",
        ),
        (bool(config["callbacks"].get("average")), "an average of unsharded weights (set average=none)"),
        (
            config["tuning"]["plateau"]["restore_best"],
            "tuning.plateau.restore_best=true, which keeps unsharded weights (set false)",
        ),
        (takes_objects(config), "task=instance, whose losses need the whole model on each device (set ddp)"),
        (settings.get("sync_batchnorm"), "trainer.sync_batchnorm=true, which Lightning would ignore (leave it out)"),
    ]
    if texts := [text for is_conflict, text in conflicts if is_conflict]:
        raise ConfigError(f"trainer.strategy=fsdp2 does not work with {'; nor with '.join(texts)}. Or set ddp.")
