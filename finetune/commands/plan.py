"""The command `plan`: show what would train when, at which learning rate and cost, before anything runs."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from finetune.builders.checks.monitors import check_monitored
from finetune.builders.checks.trainer import check_budget
from finetune.builders.checks.training import check, check_without_data
from finetune.builders.data import build_source, missing_options, source_options
from finetune.builders.devices import autocast_dtype, device_type, on_training_device
from finetune.builders.discovery import AUTO, work_out_data
from finetune.builders.dummy_step import batch_shape, noise_step
from finetune.builders.pace import with_budget
from finetune.builders.recipe import with_placeholders_for_recipe
from finetune.builders.settings import PlanSettings
from finetune.builders.task import build_optimizer, check_plan_timing, task_without_weights
from finetune.builders.training_length import min_plateau_epochs, step_counts, with_length
from finetune.commands.auto_search import searched_setting, with_placeholders
from finetune.config.compose import load_config
from finetune.config.errors import ConfigError, mistakes_of, raise_mistakes, usage
from finetune.config.nested import leaves
from finetune.config.settings import SEARCHED, Settings
from finetune.engine.command_line import command_started
from finetune.io.messages import html_table
from finetune.models.classes import class_names
from finetune.profiling.cost import Cost, estimate
from finetune.profiling.latency import Latency, measure_latency
from finetune.recipe.budget import read_budget, with_validations
from finetune.reports.tuning import phase_lines, write_timeline
from finetune.runs.console import configure_logging
from finetune.runs.folder import check_new
from finetune.tasks import TuningTask
from finetune.tuning.freeze import apply_trainability
from finetune.tuning.group_schedule import GroupLRSchedule
from finetune.tuning.plan_feasibility import evenly_spaced_plateaus
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
    measured: tuple[Latency, ...]
    figure: Path

    def _repr_html_(self) -> str:
        header = ("phase", "epochs", "parameters that train", "GFLOP per step")
        rows = [
            (str(number), f"{phase.first + 1} to {phase.stop}", f"{phase.trained:,}", f"{cost.flops / 1e9:.1f}")
            for number, (phase, cost) in enumerate(zip(self.phases, self.costs, strict=True), start=1)
        ]
        return html_table([header, *rows])


def plan(*overrides: str | DictConfig) -> PlanResult:
    """Show what a training on this data would do, before it starts.

    The data is read if there is any, since the recipe follows from it; weights are not loaded.

    Args:
        overrides: of `finetune train`, and of `plan.measure`, `plan.images`, `plan.figure`; or one composed config.

    Raises:
        ConfigError: with every mistake found.
    """
    started = command_started()
    config, searched = with_placeholders(load_config(overrides, "plan"), search=False)
    configure_logging()
    with usage():
        raise_mistakes(mistakes_of((_check_plan, check_budget), config))
        is_assumed = config["plan"]["images"] is not None or bool(missing_options(config["data"]))
        may_shrink = config["data"]["batch_size"] == "auto" and "optimizer.lr" not in searched
        config, subject = _assumed(config) if is_assumed else _read(config, started, may_shrink)
        task = task_without_weights(config, subject.classes)
        schedule, timeline = _schedule(config, task, subject.images)
    for line in subject.lines:
        logger.info(line)
    for line in subject.warnings:
        logger.warning(line)
    for key in searched:
        logger.info(f"{searched_setting(key)} is searched by the training; {SEARCHED[key][1]} stands for it here")
    logger.info(
        f"{timeline.epochs} epochs of {schedule.steps} steps: {subject.description}, {config['data']['batch_size']} a "
        f"batch"
    )
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
    check_plan_timing(task, config, images)
    (steps, total), epochs_per_plateau = step_counts(config, images), min_plateau_epochs(config, images)
    assignments = [group.assignment for group in task.groups]
    timeline = evenly_spaced_plateaus(assignments, task.timeline, epochs_per_plateau)
    return GroupLRSchedule(task.plan, assignments, task.schedule, steps, total), timeline


def _check_plan(config: Mapping[str, Any]) -> None:
    settings = config["plan"]
    given = Settings("plan", settings, PlanSettings)
    raise_mistakes([*given.unknown().values(), *given.type_errors()])
    images, figure = settings["images"], settings["figure"]
    if images is not None and images < 1:
        raise ConfigError(f"plan.images={images}: expected the number of training images, or null.")
    if Path(figure).suffix.lower() not in (".png", ".svg", ".pdf"):
        raise ConfigError(f"plan.figure='{figure}': expected a file ending in .png, .svg or .pdf.")
    if Path(figure).exists():
        raise ConfigError(f"plan.figure='{figure}' exists; nothing is ever overwritten. Name another file.")
    check_new(Path(figure), "plan.figure")


@dataclass(frozen=True)
class _Subject:
    """What a plan is for: the names of the classes, the number of training images, and lines about them."""

    classes: tuple[str, ...]
    images: int
    description: str
    lines: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def _read(config: dict[str, Any], started: float, may_shrink: bool) -> tuple[dict[str, Any], _Subject]:
    """Return the config with everything that follows from the data, and what the plan is for."""
    config, data = check(config)
    config, about_budget = with_budget(config, data, started, may_shrink)
    images = data.sizes()["train"]
    lines = (*data.notes, data.describe(), *data.reasons, *about_budget)
    text = f"{images:,} training {data.noun}"
    return config, _Subject(data.model_classes, images, text, lines, data.all_warnings())


OF_LENGTH = ("trainer.max_epochs", "trainer.check_val_every_n_epoch")  # settings that follow from a budget in steps


def _assumed(config: dict[str, Any]) -> tuple[dict[str, Any], _Subject]:
    """Return the config with placeholders for what would follow from the data, and what the plan is for."""
    if config["data"].get("root") is not None:
        config, _ = work_out_data(config)
    check_without_data(config)
    classes, count = _classes(config), config["plan"]["images"]
    raise_mistakes(mistakes_of((check_monitored,), config, classes))
    images = UNKNOWN_IMAGES if count is None else count
    steps, open_settings = _budget_steps(config), leaves(config)
    config = with_placeholders_for_recipe(config)
    stand_ins = [
        f"{key}={value}"
        for key, value in leaves(config).items()
        if open_settings.get(key) == "auto" != value and not (steps is not None and key in OF_LENGTH)
    ]
    lines = tuple(f"no data: {stand_in} stands for what follows from it" for stand_in in stand_ins)
    config = config if steps is None else with_length(config, with_validations(steps, 0), images)
    if count is not None:
        return config, _Subject(classes, images, f"{images:,} training images", lines)
    missing = missing_options(config["data"])[0]
    text = f"training images assumed, as neither data.{missing} nor plan.images says how many"
    return config, _Subject(classes, images, f"{images:,} {text}", lines)


def _budget_steps(config: Mapping[str, Any]) -> int | None:
    """Return the steps of the budget; None if there is no budget.

    Raises:
        ConfigError: a time, which needs data for steps to be timed.
    """
    if config["budget"] is None:
        return None
    steps = read_budget(config["budget"]).steps
    if steps is None:
        data = "data.root" if config["plan"]["images"] is None else "data.root without plan.images"
        raise ConfigError(f"budget={config['budget']}: steps are timed on the data. Set {data}, or a number of steps.")
    return steps


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
) -> tuple[dict[frozenset[str], Cost], dict[frozenset[str], Latency]]:
    """Return the estimated and, if asked for, the measured cost of a step, by the set of trainable parameters.

    The first estimate is of a step in which everything trains.
    """
    batch, dtype, slots = batch_shape(config), autocast_dtype(config), _optimizer_slots(config["optimizer"])
    sets = [frozenset(task.places), *(phase.trainable for phase in phases)]
    costs = {names: estimate(task.model, batch, names, slots, dtype) for names in dict.fromkeys(sets)}
    if not config["plan"]["measure"]:
        return costs, {}
    return costs, {names: _measure(config, task, names) for names in dict.fromkeys(sets[1:])}


def _measure(config: Mapping[str, Any], task: TuningTask, names: frozenset[str]) -> Latency:
    apply_trainability(task.model, names, task.norms())
    with on_training_device(config):
        step = noise_step(config, task, batch_shape(config))
        return measure_latency(step, torch.device(device_type(config)), seconds=0)


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
    measured: Mapping[frozenset[str], Latency],
    are_assumed: bool,
) -> None:
    everything = next(iter(costs.values()))
    for number, phase in enumerate(phases, start=1):
        logger.info("")
        cost, measurement = costs[phase.trainable], measured.get(phase.trainable)
        for line in phase_lines(number, phase, cost, everything, measurement, are_assumed):
            logger.info(line)
