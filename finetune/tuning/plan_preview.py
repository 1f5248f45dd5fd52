"""A plan laid out in phases, before anything runs: what trains in each, at which rates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from finetune.tuning.group_schedule import GroupLRSchedule
from finetune.tuning.groups import Group
from finetune.tuning.lr_history import LRHistory
from finetune.tuning.parameter_info import ParameterInfo
from finetune.tuning.plan import Assignment
from finetune.tuning.timing import Timeline, trainable, trains

SAMPLES = 1000  # of the steps of a phase, in which its highest rate is looked for


@dataclass(frozen=True)
class Row:
    """A layer group in a phase.

    Attributes:
        label: such as `backbone[3]`.
        parameters: how many it has.
        trains: whether it does in this phase.
        start: learning rate at the phase's first step.
        peak: the highest in the phase.
        end: at its last step.
        weight_decay: of kernels; norms, biases and tables of positions never decay.
        norms: what its batch norms do: train, eval, adapt, or frozen.
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
    """Epochs in which the same parameters train.

    Attributes:
        first: its first epoch, counted from 0.
        stop: the epoch after its last.
        rows: one for each layer group, from stem to head.
        trainable: names of the parameters that train.
    """

    first: int
    stop: int
    rows: tuple[Row, ...]
    trainable: frozenset[str]

    @property
    def trained(self) -> int:
        """How many parameters train."""
        return sum(row.parameters for row in self.rows if row.trains)


def outline(
    groups: Sequence[Group],
    places: Mapping[str, ParameterInfo],
    assigned: Mapping[str, Assignment],
    course: GroupLRSchedule,
    timeline: Timeline,
) -> list[Phase]:
    """The phases of a plan.

    Args:
        groups: of the optimizer.
        places: of all parameters.
        assigned: the rule of each parameter.
        course: of the learning rates.
        timeline: the length of the training, and when the score plateaus.
    """
    starts = course.phases(timeline)
    phases = []
    for first, stop in zip(starts, [*starts[1:], timeline.epochs], strict=True):
        rows = tuple(_row(members, places, course, timeline, first, stop) for members in _by_place(groups))
        phases.append(Phase(first, stop, rows, frozenset(trainable(assigned, first, timeline))))
    return phases


def planned_rates(
    groups: Sequence[Group], assigned: Mapping[str, Assignment], course: GroupLRSchedule, timeline: Timeline
) -> LRHistory:
    """The learning rates of all layer groups as a training that follows the plan will have them."""
    record = LRHistory(groups)
    for step in _steps(0, timeline.epochs, course):
        rates = [group.lr * course.multiplier(group.assignment, step, timeline) for group in groups]
        record.add(step / course.steps, rates, trainable(assigned, step // course.steps, timeline))
    record.boundaries = [float(start) for start in course.phases(timeline)[1:]]
    return record


def _by_place(groups: Sequence[Group]) -> list[list[Group]]:
    """Groups that differ only in weight decay, together."""
    places: dict[tuple[Assignment, str], list[Group]] = {}
    for group in groups:
        places.setdefault((group.assignment, group.label), []).append(group)
    return list(places.values())


def _row(
    members: Sequence[Group],
    places: Mapping[str, ParameterInfo],
    course: GroupLRSchedule,
    timeline: Timeline,
    first: int,
    stop: int,
) -> Row:
    group, assignment = members[0], members[0].assignment
    rates = [group.lr * course.multiplier(assignment, step, timeline) for step in _steps(first, stop, course)]
    on, norms = trains(assignment, first, timeline), assignment.rule.norms
    return Row(
        group.label,
        sum(places[name].size for member in members for name in member.parameters),
        on,
        rates[0],
        max(rates),
        rates[-1],
        max(member.weight_decay for member in members),
        norms if on or norms == "adapt" else "frozen",
    )


def _steps(first: int, stop: int, course: GroupLRSchedule) -> list[int]:
    """Steps of some epochs, all of them or evenly spread ones, with the first and the last."""
    begin, end = first * course.steps, min(stop * course.steps, course.total) - 1
    count = min(SAMPLES, end - begin + 1)
    return list(dict.fromkeys(np.linspace(begin, end, count).round().astype(int).tolist()))
