"""Whether a plan fits into a training, whenever its score may stop improving."""

import math
from collections.abc import Collection, Mapping
from dataclasses import replace

from finetune.tuning.parameter_info import PlanError
from finetune.tuning.plan import Assignment
from finetune.tuning.timing import (
    NEVER,
    Timeline,
    phase_starts,
    plateaus_awaited,
    span_epochs,
    trainable,
    waits_for_plateau,
)


def min_epochs_per_plateau(patience: int, validations: float) -> int:
    """Epochs that it takes at least to see that a score has stopped improving: the first one is the best so far.

    Args:
        patience: validations without improvement.
        validations: in an epoch; less than 1 where not every epoch has one.

    >>> min_epochs_per_plateau(3, 1), min_epochs_per_plateau(3, 2), min_epochs_per_plateau(3, 0.5)
    (4, 2, 8)
    """
    return math.ceil((patience + 1) / validations)


def earliest_plateaus(assignments: Collection[Assignment], timeline: Timeline, pace: int = 1) -> Timeline:
    """The timeline with the plateaus that the plan waits for, each as early as it can come.

    Args:
        assignments: of all parameters.
        timeline: how long the training is.
        pace: epochs that a plateau takes at least.
    """
    distinct, epoch = set(assignments), pace
    plateaus: list[int] = []
    last = timeline.epochs if plateaus_awaited(distinct) else 0
    while epoch < last:
        waiting = waits_for_plateau(distinct, epoch - pace, replace(timeline, plateaus=tuple(plateaus)))
        plateaus += [epoch] if waiting else []
        epoch += pace if waiting else 1
    return replace(timeline, plateaus=tuple(plateaus))


def evenly_spaced_plateaus(assignments: Collection[Assignment], timeline: Timeline, pace: int = 1) -> Timeline:
    """The timeline with these plateaus spread over the training; when they really come is not known.

    Args:
        assignments: of all parameters.
        timeline: how long the training is.
        pace: epochs that a plateau takes at least.
    """
    early = earliest_plateaus(assignments, timeline, pace).plateaus
    plateaus: list[int] = []
    for i, epoch in enumerate(early):
        even = round(timeline.epochs * (i + 1) / (len(early) + 1))
        plateaus.append(max(even, epoch, plateaus[-1] + pace if plateaus else 0))
    return replace(timeline, plateaus=tuple(plateaus))


def check_timing(assigned: Mapping[str, Assignment], timeline: Timeline, pace: int = 1) -> None:
    """Raise where the plan does not fit into the training, or would not if the score plateaued early.

    Args:
        assigned: the rule of each parameter.
        timeline: how long the training is.
        pace: epochs that a plateau takes at least.

    Raises:
        PlanError: spans that overlap, are empty or begin after the last epoch, an epoch in which nothing trains, or
            plateaus that cannot come.
    """
    assignments = set(assigned.values())
    early = earliest_plateaus(assignments, timeline, pace)
    for course in dict.fromkeys(
        (timeline, early, evenly_spaced_plateaus(assignments, timeline, pace))
    ):  # one, if none are awaited
        for name, assignment in assigned.items():
            _check_spans(name, assignment, course)
        _check_something_trains(assigned, course)
    if waits_for_plateau(assignments, timeline.epochs, early):
        raise PlanError(
            f"the plan waits for {plateaus_awaited(assignments)} plateaus of the score, each taking {pace} epochs "
            f"at least to show, but there are only {timeline.epochs} epochs. Train longer (trainer.max_epochs), lower "
            f"tuning.plateau.patience, validate more often (+trainer.val_check_interval=0.5), or unfreeze more at once."
        )


def _check_something_trains(assigned: Mapping[str, Assignment], timeline: Timeline) -> None:
    for epoch in phase_starts(assigned.values(), timeline):
        if assigned and not trainable(assigned, epoch, timeline):
            raise PlanError(
                f"after {epoch} epochs nothing trains{_plateaus(timeline)}. Let at least one rule train then, such as "
                f"{{match: .}}."
            )


def _plateaus(timeline: Timeline) -> str:
    """Under which plateaus, in words.

    >>> _plateaus(Timeline(10, (4,)))
    ', if the score plateaus after 4 epochs'
    """
    return f", if the score plateaus after {', '.join(map(str, timeline.plateaus))} epochs" if timeline.plateaus else ""


def _check_spans(name: str, assignment: Assignment, timeline: Timeline) -> None:
    match, last = assignment.rule.match, 0.0
    for (start, stop), (first, end) in zip(assignment.rule.spans, span_epochs(assignment, timeline), strict=True):
        end_said = "the end" if stop is None else stop
        said = f"tuning rule '{match}' trains {name} from {start} to {end_said}{_plateaus(timeline)}"
        if start is None:
            raise PlanError(f"{said}; null is the end, where nothing can begin. Say never, or when.")
        if any(isinstance(moment, int | float) and moment < 0 for moment in (start, stop)):
            raise PlanError(f"{said}; moments are 0 or more.")
        if any(isinstance(m, float) and not 0 <= m <= 1 for m in (start, stop)):
            raise PlanError(f"{said}; a share of training lies in 0..1. Write an epoch as a whole number.")
        if first == NEVER:  # waits for a plateau, or is not meant to train
            continue
        if first >= timeline.epochs:
            raise PlanError(
                f"{said}, that is after {first:.0f} epochs, but the training has only {timeline.epochs}. Begin earlier "
                f"(tuning.unfreeze_at, tuning.unfreeze_stagger), train longer (trainer.max_epochs), or say never."
            )
        if first < last:
            raise PlanError(f"{said}, which overlaps the span before it. Begin it after {last:.0f} epochs or later.")
        if end <= first:
            raise PlanError(f"{said}, which is no whole epoch out of {timeline.epochs}. Move its ends apart.")
        last = end
