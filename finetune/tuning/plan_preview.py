"""Preview of a plan: the phases of a training, with the parameters and learning rates of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from finetune.tuning.group_schedule import GroupLRSchedule
from finetune.tuning.groups import Group
from finetune.tuning.lr_history import LRHistory
from finetune.tuning.parameter_info import ParameterInfo
from finetune.tuning.plan import Assignment
from finetune.tuning.timing import Timeline, trainable, trains

MAX_SAMPLES = 1000  # steps of a phase at which learning rates are evaluated


@dataclass(frozen=True)
class Row:
    """A layer group in a phase.

    Attributes:
        label: name of the layer group, such as `backbone[3]`.
        parameters: number of parameters.
        trains: whether it trains in this phase.
        start: learning rate at the first step of the phase.
        peak: highest learning rate of the phase.
        end: learning rate at the last step of the phase.
        weight_decay: weight decay of kernels; norms, biases and position embeddings never decay.
        norms: mode of its batch norms: `train`, `eval`, `adapt` or `frozen`.
    """

    label: str
    parameters: int
    trains: bool
    start: float
    peak: float
    end: float
    weight_decay: float
    norms: str


@dataclass(frozen=True)
class Phase:
    """Consecutive epochs in which the same parameters train.

    Attributes:
        first: first epoch, counted from 0.
        stop: epoch after the last one.
        rows: one row for each layer group, from stem to head.
        trainable: names of the parameters that train.
    """

    first: int
    stop: int
    rows: tuple[Row, ...]
    trainable: frozenset[str]

    @property
    def trained(self) -> int:
        """Number of parameters that train."""
        return sum(row.parameters for row in self.rows if row.trains)


def outline(
    groups: Sequence[Group],
    infos: Mapping[str, ParameterInfo],
    assigned: Mapping[str, Assignment],
    schedule: GroupLRSchedule,
    timeline: Timeline,
) -> list[Phase]:
    """Return the phases of a plan.

    Args:
        groups: groups of the optimizer.
        infos: description of each parameter, by name.
        assigned: rule of each parameter, by name.
        schedule: learning-rate multipliers of the groups.
        timeline: length of the training and plateaus of the score.
    """
    starts = schedule.phases(timeline)
    phases = []
    for first, stop in zip(starts, [*starts[1:], timeline.epochs], strict=True):
        rows = tuple(_row(members, infos, schedule, timeline, first, stop) for members in _by_label(groups))
        phases.append(Phase(first, stop, rows, frozenset(trainable(assigned, first, timeline))))
    return phases


def planned_rates(
    groups: Sequence[Group], assigned: Mapping[str, Assignment], schedule: GroupLRSchedule, timeline: Timeline
) -> LRHistory:
    """Return the learning rates of all layer groups over a training that follows the plan."""
    history = LRHistory(groups)
    for step in _steps(0, timeline.epochs, schedule):
        rates = [group.lr * schedule.multiplier(group.assignment, step, timeline) for group in groups]
        history.add(step / schedule.steps, rates, trainable(assigned, step // schedule.steps, timeline))
    history.boundaries = [float(start) for start in schedule.phases(timeline)[1:]]
    return history


def _by_label(groups: Sequence[Group]) -> list[list[Group]]:
    """Return the groups in lists of those that differ only in weight decay."""
    lists: dict[tuple[Assignment, str], list[Group]] = {}
    for group in groups:
        lists.setdefault((group.assignment, group.label), []).append(group)
    return list(lists.values())


def _row(
    members: Sequence[Group],
    infos: Mapping[str, ParameterInfo],
    schedule: GroupLRSchedule,
    timeline: Timeline,
    first: int,
    stop: int,
) -> Row:
    group, assignment = members[0], members[0].assignment
    rates = [group.lr * schedule.multiplier(assignment, step, timeline) for step in _steps(first, stop, schedule)]
    is_training, norms = trains(assignment, first, timeline), assignment.rule.norms
    return Row(
        label=group.label,
        parameters=sum(infos[name].size for member in members for name in member.parameters),
        trains=is_training,
        start=rates[0],
        peak=max(rates),
        end=rates[-1],
        weight_decay=max(member.weight_decay for member in members),
        norms=norms if is_training or norms == "adapt" else "frozen",
    )


def _steps(first: int, stop: int, schedule: GroupLRSchedule) -> list[int]:
    """Return steps evenly spread over some epochs, including the first and the last; all of them if they are few."""
    begin, end = first * schedule.steps, min(stop * schedule.steps, schedule.total) - 1
    count = min(MAX_SAMPLES, end - begin + 1)
    return list(dict.fromkeys(np.linspace(begin, end, count).round().astype(int).tolist()))
