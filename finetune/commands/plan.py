"""The command `plan`: show what would train when, at which learning rate and cost, before anything runs."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from finetune.builders.checks.monitors import check_monitored
from finetune.builders.checks.training import check_without_data
from finetune.builders.data import build_source, missing_options, source_options
from finetune.builders.devices import autocast_dtype, device_type
from finetune.builders.discovery import AUTO, work_out_data
from finetune.builders.dummy_step import batch_shape, noise_step
from finetune.builders.settings import PlanSettings
from finetune.builders.splits import split_records
from finetune.builders.task import build_optimizer, task_without_weights
from finetune.builders.tiles import tiled_records
from finetune.builders.training_length import min_plateau_epochs, step_counts
from finetune.commands.auto_search import with_placeholders
from finetune.config.compose import load_config
from finetune.config.errors import ConfigError, mistakes_of, raise_mistakes, usage
from finetune.config.settings import SEARCHED, Settings
from finetune.io.messages import html_table
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
UNKNOWN_IMAGES = 400  # training images, if no setting says how many


@dataclass(frozen=True)
class PlanResult:
    """The phases of a training.

    Attributes:
        phases: one after the other.
        costs: estimate for a step of each phase.
        measured: measurement of a step of each phase; empty unless `plan.measure` asks for it.
        figure: file with the learning rates of all layer groups over the training.
    """

    phases: tuple[Phase, ...]
    costs: tuple[Cost, ...]
    measured: tuple[MeasuredCost, ...]
    figure: Path

    def _repr_html_(self) -> str:
        header = ("phase", "epochs", "parameters that train", "GFLOP per step")
        rows = [
            (str(number), f"{phase.first + 1} to {phase.stop}", f"{phase.trained:,}", f"{cost.flops / 1e9:.1f}")
            for number, (phase, cost) in enumerate(zip(self.phases, self.costs, strict=True), start=1)
        ]
        return html_table([header, *rows])


def plan(*overrides: str | DictConfig) -> PlanResult:
    """Show the tuning plan of a training without loading its data or its weights.

    Args:
        overrides: of `finetune train`, and of `plan.measure`, `plan.images`, `plan.figure`; or one composed config.

    Raises:
        ConfigError: with every mistake found.
    """
    config, searched = with_placeholders(load_config(overrides, "plan"), search=False)
    configure_logging()
    with usage():
        if config["data"].get("root") is not None:
            config, _ = work_out_data(config)
        check_without_data(config)
        raise_mistakes(mistakes_of((check_monitored,), config, _classes(config)) + mistakes_of((_check_plan,), config))
        count, images = _images(config)
        task = task_without_weights(config, _classes(config))
        schedule, timeline = _schedule(config, task, count)
    for key in searched:
        logger.info(f"{key}=auto is searched by the training; {SEARCHED[key]} stands for it here")
    logger.info(f"{timeline.epochs} epochs of {schedule.steps} steps: {images}, {config['data']['batch_size']} a batch")
    for line in task.describe_plan():
        logger.info(line)
    phases = outline(task.groups, task.places, task.assigned, schedule, timeline)
    costs, measured = _costs(config, task, phases)
    _show(phases, costs, measured, bool(timeline.plateaus))
    figure = Path(config["plan"]["figure"])
    write_timeline(planned_rates(task.groups, task.assigned, schedule, timeline), figure)
    logger.info(f"\nfigure       {figure}")
    measurements = tuple(measured[phase.trainable] for phase in phases) if measured else ()
    return PlanResult(tuple(phases), tuple(costs[phase.trainable] for phase in phases), measurements, figure)


def _schedule(config: Mapping[str, Any], task: TuningTask, images: int) -> tuple[GroupLRSchedule, Timeline]:
    """Return the learning rates and the timeline of a training on so many images, with plateaus assumed evenly."""
    steps, total = step_counts(config, images)
    task.timeline = Timeline(math.ceil(total / steps))
    epochs_per_plateau = min_plateau_epochs(config, images)
    check_timing(task.assigned, task.timeline, epochs_per_plateau)
    assignments = [group.assignment for group in task.groups]
    timeline = evenly_spaced_plateaus(assignments, task.timeline, epochs_per_plateau)
    return GroupLRSchedule(task.plan, assignments, task.schedule, timeline.epochs, steps, total), timeline


def _check_plan(config: Mapping[str, Any]) -> None:
    settings = config["plan"]
    given = Settings("plan", settings, PlanSettings)
    raise_mistakes([*given.unknown().values(), *given.type_errors()])
    images, figure = settings["images"], settings["figure"]
    if images is not None and images < 1:
        raise ConfigError(f"plan.images={images}: expected the number of training images, or null.")
    if Path(figure).exists():
        raise ConfigError(f"plan.figure='{figure}' exists; nothing is ever overwritten. Name another file.")


def _images(config: Mapping[str, Any]) -> tuple[int, str]:
    """Return the number of training images, and a text about it."""
    data, count = config["data"], config["plan"]["images"]
    if count is None and (missing := missing_options(data)):
        text = f"training images assumed, as neither data.{missing[0]} nor plan.images says how many"
        return UNKNOWN_IMAGES, f"{UNKNOWN_IMAGES:,} {text}"
    if count is None:
        records = split_records(build_source(data), {**data, "stratify": False}, config["seed"]).records
        tiled = [parts for parts in tiled_records(records, data) if parts[0].split == "train"]
        count = sum(map(len, tiled))
        return count, f"{count:,} training {'tiles' if count > len(tiled) else 'images'}"
    return count, f"{count:,} training images"


def _classes(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the classes; two numbered ones if neither the settings nor the data give them."""
    data = config["data"]
    if data["format"] != AUTO:
        source_options(data)  # refuses unknown ones even if there is no data yet
    if missing_options(data):
        return class_names(data.get("classes") or 2)
    return class_names(build_source(data).class_names or 2)


def _costs(
    config: Mapping[str, Any], task: TuningTask, phases: list[Phase]
) -> tuple[dict[frozenset[str], Cost], dict[frozenset[str], MeasuredCost]]:
    """Return the estimated and, if asked for, the measured cost of a step, by the set of trainable parameters.

    The first estimate is of a step in which everything trains.
    """
    batch, dtype, slots = batch_shape(config), autocast_dtype(config), _optimizer_slots(config["optimizer"])
    sets = [frozenset(task.places), *(phase.trainable for phase in phases)]
    costs = {names: estimate(task.model, batch, names, slots, dtype) for names in dict.fromkeys(sets)}
    if not config["plan"]["measure"]:
        return costs, {}
    return costs, {names: _measure(config, task, names) for names in dict.fromkeys(sets[1:])}


def _measure(config: Mapping[str, Any], task: TuningTask, names: frozenset[str]) -> MeasuredCost:
    apply_trainability(task.model, names)
    return measure(noise_step(config, task, batch_shape(config)), device_type(config))


def _optimizer_slots(settings: Mapping[str, Any]) -> int:
    """Return how many numbers the optimizer keeps for each parameter, found by one step on a matrix."""
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
    are_assumed: bool,
) -> None:
    everything = next(iter(costs.values()))
    for number, phase in enumerate(phases, start=1):
        logger.info("")
        cost, measurement = costs[phase.trainable], measured.get(phase.trainable)
        for line in phase_lines(number, phase, cost, everything, measurement, are_assumed):
            logger.info(line)
