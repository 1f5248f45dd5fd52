"""Names and numbers of a config become a model, its task and its data; `trainers` has what trains them."""

from collections.abc import Sequence
from typing import Any

import torch
from timm.optim import create_optimizer_v2

from finetune.builders.data import DatasetBundle, loss_weights
from finetune.builders.model import build_model
from finetune.builders.training_length import min_plateau_epochs
from finetune.config.errors import ConfigError
from finetune.config.options import Config, drop_name, validate_options
from finetune.losses import SegmentationLoss
from finetune.models import Segmenter
from finetune.tasks import SemanticTask
from finetune.tuning.plan import Plan, PlateauCriterion, Rule
from finetune.tuning.plan_feasibility import check_timing
from finetune.tuning.timing import Timeline


def build_loss(settings: Config, ignore_index: int, weights: torch.Tensor | None) -> SegmentationLoss:
    """The loss, with a weight for each class or none."""
    options = validate_options("loss", SegmentationLoss, settings, skip=("ignore_index",))
    return SegmentationLoss(**{**options, "ignore_index": ignore_index, "class_weights": weights})


def build_plan(settings: Config) -> Plan:
    """The tuning plan.

    Raises:
        ConfigError: settings of another kind than the plan's.
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


def build_task(config: Config, network: Segmenter, data: DatasetBundle) -> SemanticTask:
    """The model with its loss, plan, optimizer and schedule."""
    weights = loss_weights(config["loss"]["class_weights"], data)
    built = assemble_task(config, network, build_loss(config["loss"], data.ignore_index, weights), data.ignore_index)
    check_timing(
        built.assigned, Timeline(config["trainer"]["max_epochs"]), min_plateau_epochs(config, data.sizes()["train"])
    )
    return built


def build_optimizer(groups: list[dict[str, Any]], settings: Config) -> torch.optim.Optimizer:
    """The optimizer of parameter groups that bring their own learning rates."""
    made: torch.optim.Optimizer = create_optimizer_v2(groups, settings["name"], settings["lr"], **settings["options"])
    return made


def assemble_task(config: Config, network: Segmenter, criterion: SegmentationLoss, ignore_index: int) -> SemanticTask:
    """The model with a loss, and with its plan, optimizer and schedule."""
    settings, schedule, tuning = config["optimizer"], config["schedule"], config["tuning"]
    return SemanticTask(
        network,
        criterion,
        ignore_index,
        plan=build_plan(tuning),
        optimizer=settings["name"],
        lr=settings["lr"],
        weight_decay=settings["weight_decay"],
        optimizer_options=settings["options"],
        schedule_name=schedule["name"],
        warmup=schedule["warmup"],
        schedule_options=drop_name(schedule, "warmup"),
        l1=tuning["l1"],
        l2_sp=tuning["l2_sp"],
        seed=config["seed"],
    )


def task_without_weights(config: Config, classes: Sequence[str]) -> SemanticTask:
    """The task of a training without its data and its weights: what trains when, and at what cost, needs neither."""
    ignore_index = config["data"].get("ignore_index", 255)
    network = build_model(config, classes, weighted=False)
    return assemble_task(config, network, build_loss(config["loss"], ignore_index, None), ignore_index)
