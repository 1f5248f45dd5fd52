"""What the command `plan` does: show what would train when, at which rate and cost, before anything runs."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from finetune.builders.checks.training import check_monitors, check_settings
from finetune.builders.data import split_records
from finetune.builders.devices import autocast_dtype, device_type
from finetune.builders.dummy_step import batch_shape, noise_step
from finetune.builders.task import build_optimizer, task_without_weights
from finetune.builders.training_length import min_plateau_epochs, step_counts
from finetune.commands.auto_search import AUTO, with_placeholders
from finetune.config.compose import load_config
from finetune.config.errors import ConfigError, Mistakes, usage
from finetune.data import CLASS_NAMES
from finetune.models.classes import class_names
from finetune.profiling.cost import Cost, MeasuredCost, estimate, measure
from finetune.reports.tuning import phase_lines, write_timeline
from finetune.runs.console import configure_logging
from finetune.tasks import TuningTask
from finetune.tuning.freeze import apply_trainability
from finetune.tuning.group_schedule import GroupLRSchedule
from finetune.tuning.plan_feasibility import check_timing, evenly_spaced_plateaus
from finetune.tuning.plan_preview import Phase, outline, planned_rates
from finetune.tuning.timing import Timeline

logger = logging.getLogger(__name__)
UNKNOWN_IMAGES = 400  # where nobody says how many there are


@dataclass(frozen=True)
class PlanResult:
    """What a training would do.

    Attributes:
        phases: one after the other.
        costs: estimated, of a step of each phase.
        measured: of a step of each phase; empty unless it was asked for.
        picture: learning rates of all layer groups over the training.
    """

    phases: tuple[Phase, ...]
    costs: tuple[Cost, ...]
    measured: tuple[MeasuredCost, ...]
    picture: Path


def plan(*words: str | DictConfig) -> PlanResult:
    """Show the tuning plan of a training without loading its data or its weights.

    Args:
        words: the words of `finetune train`, and `plan.measure`, `plan.images`, `plan.figure`.

    Raises:
        ConfigError: with every mistake found.
    """
    config, found = with_placeholders(load_config(words, "plan"), alone=False)
    configure_logging()
    with usage():
        settings = config["plan"]
        mistakes = Mistakes()
        check_settings(config, mistakes)
        mistakes.attempt(lambda: check_monitors(config, _classes(config)))
        mistakes.attempt(lambda: _check_plan(settings))
        mistakes.raise_any()
        count, images = _images(config)
        task = task_without_weights(config, _classes(config))
        steps, total = step_counts(config, count)
        task.timeline = Timeline(math.ceil(total / steps))
        pace = min_plateau_epochs(config, count)
        check_timing(task.assigned, task.timeline, pace)
        timeline = evenly_spaced_plateaus([group.assignment for group in task.groups], task.timeline, pace)
        course = GroupLRSchedule(
            task.plan, [g.assignment for g in task.groups], task.schedule, timeline.epochs, steps, total
        )
    for group in sorted(found):
        key, stand_in = AUTO[group]
        logger.info(f"{group}.{key}=auto is searched by the training; {stand_in} stands in for it here")
    logger.info(f"{timeline.epochs} epochs of {steps} steps: {images}, {config['data']['batch_size']} a batch")
    for line in task.describe_plan():
        logger.info(line)
    phases = outline(task.groups, task.places, task.assigned, course, timeline)
    costs, measured = _costs(config, task, phases)
    picture = Path(settings["picture"])
    _show(phases, costs, measured, bool(timeline.plateaus))
    write_timeline(planned_rates(task.groups, task.assigned, course, timeline), picture)
    logger.info(f"\npicture      {picture}")
    tried = tuple(measured[phase.trainable] for phase in phases) if measured else ()
    return PlanResult(tuple(phases), tuple(costs[phase.trainable] for phase in phases), tried, picture)


def _check_plan(settings: Mapping[str, Any]) -> None:
    if not isinstance(settings["measure"], bool):
        raise ConfigError(f"plan.measure={settings['measure']}: expected true or false.")
    images = settings["images"]
    if images is not None and (isinstance(images, bool) or not isinstance(images, int) or images < 1):
        raise ConfigError(f"plan.images={images}: expected how many training images there are, or null.")
    if Path(settings["picture"]).exists():
        raise ConfigError(
            f"plan.figure='{settings['picture']}' exists; nothing is ever overwritten. Name another file."
        )


def _images(config: Mapping[str, Any]) -> tuple[int, str]:
    """Number of training images, and the same in words."""
    data = config["data"]
    count, said = config["plan"]["images"], "{} training images"
    if count is None and data["format"] == "synthetic":
        count = data["count"]
    elif count is None and data["root"]:
        count = sum(record.split == "train" for record in split_records(data, config["seed"]))
    elif count is None:
        count, said = UNKNOWN_IMAGES, "{} training images assumed, as neither data.root nor plan.images says how many"
    return count, said.format(f"{count:,}")


def _classes(config: Mapping[str, Any]) -> tuple[str, ...]:
    data = config["data"]
    return class_names(CLASS_NAMES if data["format"] == "synthetic" else data["classes"] or 2)


def _costs(
    config: Mapping[str, Any], task: TuningTask, phases: list[Phase]
) -> tuple[dict[frozenset[str], Cost], dict[frozenset[str], MeasuredCost]]:
    """Estimated and, if asked for, measured cost of a step, by what trains; the first is of everything."""
    batch, half, slots = batch_shape(config), autocast_dtype(config), _optimizer_slots(config["optimizer"])
    sets = [frozenset(task.places), *(phase.trainable for phase in phases)]
    costs = {names: estimate(task.model, batch, names, slots, half) for names in dict.fromkeys(sets)}
    if not config["plan"]["measure"]:
        return costs, {}
    return costs, {names: _measured(config, task, names) for names in dict.fromkeys(sets[1:])}


def _measured(config: Mapping[str, Any], task: TuningTask, names: frozenset[str]) -> MeasuredCost:
    apply_trainability(task.model, names)
    return measure(noise_step(config, task, batch_shape(config)), device_type(config))


def _optimizer_slots(settings: Mapping[str, Any]) -> int:
    """Numbers that the optimizer keeps for each parameter, found by one step on a matrix."""
    matrix = torch.nn.Parameter(torch.zeros(8, 8))
    optimizer = build_optimizer([{"params": [matrix]}], settings)
    matrix.grad = torch.ones_like(matrix)
    optimizer.step()
    kept = sum(value.numel() for value in optimizer.state[matrix].values() if isinstance(value, torch.Tensor))
    return round(kept / matrix.numel())


def _show(
    phases: list[Phase],
    costs: Mapping[frozenset[str], Cost],
    measured: Mapping[frozenset[str], MeasuredCost],
    plateaus: bool,
) -> None:
    full = next(iter(costs.values()))
    for number, phase in enumerate(phases, start=1):
        logger.info("")
        for line in phase_lines(number, phase, costs[phase.trainable], full, measured.get(phase.trainable), plateaus):
            logger.info(line)
