"""Check that a plan fits the length of the training, whenever the score plateaus."""

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


def validations_per_epoch(batches: int, between: int, epochs: int | None) -> float:
    """Return the number of validations per epoch; below 1 if not every epoch has one.

    Args:
        batches: of an epoch.
        between: batches from one validation to the next.
        epochs: from one with validations to the next; None counts the batches over epochs.

    >>> validations_per_epoch(100, 40, 1), validations_per_epoch(100, 40, None), validations_per_epoch(100, 50, 4)
    (2.0, 2.5, 0.5)
    """
    return batches / between if epochs is None else (batches // between or batches / between) / epochs


def min_epochs_per_plateau(patience: int, validations: float) -> int:
    """Return the fewest epochs in which a plateau can be detected; the first validation always sets the best score.

    Args:
        patience: number of validations without improvement that make a plateau.
        validations: validations per epoch; below 1 if not every epoch has one.

    >>> min_epochs_per_plateau(3, 1), min_epochs_per_plateau(3, 2), min_epochs_per_plateau(3, 0.5)
    (4, 2, 8)
    """
    return math.ceil((patience + 1) / validations)


def earliest_plateaus(assignments: Collection[Assignment], timeline: Timeline, min_plateau_epochs: int = 1) -> Timeline:
    """Return the timeline with every plateau that the plan waits for, each as early as possible.

    Args:
        assignments: assignments of all parameters.
        timeline: length of the training.
        min_plateau_epochs: fewest epochs in which a plateau can be detected.
    """
    distinct, epoch = set(assignments), min_plateau_epochs
    plateaus: list[int] = []
    last = timeline.epochs if plateaus_awaited(distinct) else 0
    while epoch < last:
        waiting = waits_for_plateau(distinct, epoch - min_plateau_epochs, replace(timeline, plateaus=tuple(plateaus)))
        plateaus += [epoch] if waiting else []
        epoch += min_plateau_epochs if waiting else 1
    return replace(timeline, plateaus=tuple(plateaus))


def evenly_spaced_plateaus(
    assignments: Collection[Assignment], timeline: Timeline, min_plateau_epochs: int = 1
) -> Timeline:
    """Return the timeline with the plateaus that the plan waits for spread evenly, as an assumption for a preview.

    Args:
        assignments: assignments of all parameters.
        timeline: length of the training.
        min_plateau_epochs: fewest epochs in which a plateau can be detected.
    """
    earliest = earliest_plateaus(assignments, timeline, min_plateau_epochs).plateaus
    plateaus: list[int] = []
    for index, epoch in enumerate(earliest):
        even = round(timeline.epochs * (index + 1) / (len(earliest) + 1))
        plateaus.append(max(even, epoch, plateaus[-1] + min_plateau_epochs if plateaus else 0))
    return replace(timeline, plateaus=tuple(plateaus))


def check_timing(assigned: Mapping[str, Assignment], timeline: Timeline, min_plateau_epochs: int = 1) -> None:
    """Raise PlanError if the plan does not fit the training, or would not if the score plateaued early.

    Args:
        assigned: rule of each parameter, by name.
        timeline: length of the training.
        min_plateau_epochs: fewest epochs in which a plateau can be detected.

    Raises:
        PlanError: a span overlaps another, is empty or begins after the last epoch; nothing trains in an epoch; or
            the training is too short for the plateaus that the plan waits for.
    """
    assignments = set(assigned.values())
    early = earliest_plateaus(assignments, timeline, min_plateau_epochs)
    even = evenly_spaced_plateaus(assignments, timeline, min_plateau_epochs)
    for scenario in dict.fromkeys((timeline, early, even)):  # all equal if the plan waits for no plateau
        for name, assignment in assigned.items():
            _check_spans(name, assignment, scenario)
        _check_something_trains(assigned, scenario)
    if waits_for_plateau(assignments, timeline.epochs, early):
        raise PlanError(
            f"the plan waits for {plateaus_awaited(assignments)} plateaus of the score, each of which takes at least "
            f"{min_plateau_epochs} epochs to detect, but there are only {timeline.epochs} epochs. Train longer "
            f"(trainer.max_epochs), lower tuning.plateau.patience, validate more often "
            f"(trainer.check_val_every_n_epoch=1 or +trainer.val_check_interval=0.5), or unfreeze more layers at once."
        )


def _check_something_trains(assigned: Mapping[str, Assignment], timeline: Timeline) -> None:
    for epoch in phase_starts(assigned.values(), timeline):
        if assigned and not trainable(assigned, epoch, timeline):
            raise PlanError(
                f"nothing trains after {epoch} epochs{_condition(timeline)}. Let at least one rule train at that "
                f"time, such as {{match: .}}."
            )


def _condition(timeline: Timeline) -> str:
    """Return the assumed plateaus as a subordinate clause, for messages.

    >>> _condition(Timeline(10, (4,)))
    ', if the score plateaus after 4 epochs'
    """
    return f", if the score plateaus after {', '.join(map(str, timeline.plateaus))} epochs" if timeline.plateaus else ""


def _check_spans(name: str, assignment: Assignment, timeline: Timeline) -> None:
    previous_end = 0.0
    for (start, stop), (first, end) in zip(assignment.rule.spans, span_epochs(assignment, timeline), strict=True):
        span = f"{start} to {'the end' if stop is None else stop}"
        context = f"tuning rule '{assignment.rule.match}' trains {name} from {span}{_condition(timeline)}"
        if start is None:
            raise PlanError(f"{context}; null is the end of the training. Give a start, or never.")
        if any(isinstance(milestone, int | float) and milestone < 0 for milestone in (start, stop)):
            raise PlanError(f"{context}; start and stop must be 0 or more.")
        if any(isinstance(milestone, float) and not 0 <= milestone <= 1 for milestone in (start, stop)):
            raise PlanError(
                f"{context}; a fraction of the training must be from 0 to 1. Write an epoch as a whole number."
            )
        if first == NEVER:  # waits for a plateau, or never trains
            continue
        if first >= timeline.epochs:
            raise PlanError(
                f"{context}, which starts after {first:.0f} epochs, but the training has only {timeline.epochs}. Start "
                f"earlier (tuning.unfreeze_at, tuning.unfreeze_stagger), train longer (trainer.max_epochs), or set "
                f"never."
            )
        if first < previous_end:
            raise PlanError(f"{context}, which overlaps the span before it. Start after {previous_end:.0f} epochs.")
        if end <= first:
            raise PlanError(f"{context}, which covers no full epoch of {timeline.epochs}. Move start and stop apart.")
        previous_end = end
