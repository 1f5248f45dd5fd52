"""Build the task of a config: the model with its loss, plan, optimizer and schedule."""

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.optim import create_optimizer_v2

from finetune.builders.dataset_bundle import DatasetBundle
from finetune.builders.loss import build_class_weights, build_loss
from finetune.builders.model import build_model
from finetune.builders.training_length import min_plateau_epochs, step_counts
from finetune.config.errors import ConfigError
from finetune.config.options import Config, drop_name, validate_options
from finetune.inference import Output
from finetune.inference.instances import ObjectOutput
from finetune.inference.output import TaskOutput
from finetune.io.messages import suggest
from finetune.losses import Loss
from finetune.models import PyramidModel, Segmenter
from finetune.tasks import TASKS, SemanticTask, TuningTask
from finetune.tasks.pixel_task import PixelTask
from finetune.tuning.plan import Plan, PlateauCriterion, Rule
from finetune.tuning.plan_feasibility import check_timing
from finetune.tuning.timing import Timeline

logger = logging.getLogger(__name__)


def build_plan(settings: Config) -> Plan:
    """Build the tuning plan.

    Raises:
        ConfigError: settings of another type than the plan's.
    """
    rules, phase_lr, plateau = settings["rules"], settings["phase_lr"], settings["plateau"]
    if not isinstance(rules, list) or not all(isinstance(r, dict) and isinstance(r.get("match"), str) for r in rules):
        raise ConfigError(f"tuning.rules={rules}: expected a list of rules such as {{match: head, lr_scale: 2}}.")
    if not isinstance(phase_lr, list) or not isinstance(plateau, dict):
        raise ConfigError(
            f"tuning.phase_lr={phase_lr}, tuning.plateau={plateau}: expected a list and a group of settings."
        )
    return Plan(
        tuple(Rule(**validate_options("tuning.rules", Rule, rule)) for rule in settings["rules"]),
        settings["layers"],
        settings["warmup"],
        settings["restart_schedule"],
        tuple(phase_lr),
        PlateauCriterion(**validate_options("tuning.plateau", PlateauCriterion, plateau)),
    )


def build_task(config: Config, network: PyramidModel, data: DatasetBundle) -> TuningTask:
    """Build the task of a training: the model with its loss, plan, optimizer and schedule.

    Raises:
        ConfigError: settings that do not fit each other or the data.
    """
    weights = build_class_weights(config["loss"], data)
    loss = build_loss(config["loss"], data.ignore_index, weights)
    return assemble_task(config, network, loss, data.ignore_index)


def check_plan_timing(task: TuningTask, config: Config, images: int) -> None:
    """Set the task's number of epochs, and check that its plan fits into them.

    Args:
        task: of the training.
        config: of the training, with its length.
        images: number of training images.

    Raises:
        PlanError: a part of the plan would never come.
    """
    steps, total = step_counts(config, images)
    task.timeline = Timeline(math.ceil(total / steps))
    rules = [rule for rule in task.plan.rules if not rule.never_trains]
    if task.timeline.epochs == 1 and any(rule.stagger or rule.spans != ((0, None),) for rule in rules):
        logger.warning(
            "the training has one epoch, and parts of a plan start with epochs: what tuning would unfreeze later "
            "trains from the start. Train longer (budget or trainer.max_epochs), or set tuning=discriminative."
        )
    check_timing(task.assigned, task.timeline, min_plateau_epochs(config, images))


def build_optimizer(groups: list[dict[str, Any]], settings: Config) -> torch.optim.Optimizer:
    """Build the optimizer of parameter groups that have their own learning rates."""
    optimizer: torch.optim.Optimizer = create_optimizer_v2(
        groups, settings["name"], settings["lr"], **settings["options"]
    )
    return optimizer


def task_settings(config: Config) -> dict[str, Any]:
    """Return the task's settings; without data, `auto` is semantic, as are runs of earlier versions.

    >>> task_settings({})
    {'name': 'semantic'}
    """
    settings = {key: value for key, value in (config.get("task") or {}).items() if key != "monitor"}
    return settings if settings.get("name", "auto") != "auto" else {"name": SemanticTask.name}


def find_task(settings: Config) -> type[TuningTask]:
    """Return the class of a task.

    Raises:
        ConfigError: an unknown name, or options that the task does not have.
    """
    if settings["name"] not in TASKS:
        raise ConfigError(f"unknown task.name '{settings['name']}'. {suggest(str(settings['name']), TASKS)}")
    task_type = TASKS[settings["name"]]
    validate_options(f"task={settings['name']}", task_type, drop_name(settings), skip=GIVEN)
    return task_type


GIVEN = ("model", "loss", "ignore_index", "options")  # arguments of a task that are not in conf/task


def restore_task(
    settings: Config, network: PyramidModel, ignore_index: int, others: Sequence[PyramidModel] = ()
) -> TuningTask:
    """Build the task of a saved model, to evaluate it.

    Args:
        settings: as the task's `config()` gives them.
        network: the model.
        ignore_index: label of the pixels to leave out.
        others: further models that predict together with it.

    Raises:
        ConfigError: the task has one model only.
    """
    options: dict[str, Any] = {**drop_name(settings), "ignore_index": ignore_index}
    task = _build(find_task(settings), network, options)
    if others and not isinstance(task, PixelTask):
        raise ConfigError(f"task={settings['name']} evaluates one model. Name a single run.")
    task.evaluates_loss = False  # it is not in the config of a saved model
    if isinstance(task, PixelTask):
        task.predict_with([other for other in others if isinstance(other, Segmenter)])
    return task


def restore_output(settings: Config, class_names: Sequence[str]) -> TaskOutput:
    """Build the output of a saved model; see `restore_task`."""
    return find_task(settings).output_type(class_names, **drop_name(settings))


def restore_pixel_output(
    settings: Config, class_names: Sequence[str], threshold: float | Sequence[float] | None = None
) -> Output:
    """Build the output of a saved model that classifies pixels, to predict with it, maybe at another threshold.

    Raises:
        ConfigError: its task has another output.
        ValueError: the threshold does not fit the classes.
    """
    task, options = find_task(settings), drop_name(settings)
    if task.takes_objects:
        raise ConfigError(f"task={task.name} does not classify pixels, which this needs.")
    if threshold is not None:
        options["thresholds" if "thresholds" in options else "threshold"] = threshold
    build: Any = task.output_type  # of logits, as the task has no objects
    output: Output = build(class_names, **options)
    return output


def restore_object_output(settings: Config, class_names: Sequence[str], min_score: Any = None) -> ObjectOutput:
    """Build the output of a saved model that finds objects, maybe with another least score.

    Raises:
        ConfigError: its task has another output.
        ValueError: the score is not from 0 to 1.
    """
    changed = {} if min_score is None else {"min_score": min_score}
    output = restore_output({**settings, **changed}, class_names)
    if not isinstance(output, ObjectOutput):
        raise ConfigError(f"task={settings['name']} finds no objects, which this needs.")
    return output


def assemble_task(config: Config, network: PyramidModel, loss: Loss, ignore_index: int) -> TuningTask:
    """Build the task of a model and a loss, with plan, optimizer and schedule."""
    settings, schedule, tuning = config["optimizer"], config["schedule"], config["tuning"]
    task = task_settings(config)
    options: dict[str, Any] = {
        "loss": loss,
        "ignore_index": ignore_index,
        **drop_name(task),
        "plan": build_plan(tuning),
        "optimizer": settings["name"],
        "lr": settings["lr"],
        "weight_decay": settings["weight_decay"],
        "optimizer_options": settings["options"],
        "schedule_name": schedule["name"],
        "warmup": schedule["warmup"],
        "schedule_options": drop_name(schedule, "warmup"),
        "l1": tuning["l1"],
        "l2_sp": tuning["l2_sp"],
        "seed": config["seed"],
    }
    return _build(find_task(task), network, options)


def _build(task: type[TuningTask], network: PyramidModel, options: dict[str, Any]) -> TuningTask:
    if not isinstance(network, task.model_type):
        raise ConfigError(f"task={task.name} needs another model than a {type(network).__name__}.")
    build: Callable[..., TuningTask] = task  # whose evaluator and output follow from the model
    return build(network, **options)


def task_without_weights(config: Config, classes: Sequence[str]) -> TuningTask:
    """Build the task of a training without its data and pretrained weights, to see what trains and what it costs."""
    given = config["data"].get("ignore_index")
    ignore_index = given if isinstance(given, int) else 255  # lists and colors are values in files, not labels
    network = build_model(config, classes, weighted=False)
    return assemble_task(config, network, build_loss(config["loss"], ignore_index, None), ignore_index)
