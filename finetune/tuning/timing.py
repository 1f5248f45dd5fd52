"""Timing of a plan: milestones become epochs, and epochs become sets of trainable parameters.

All functions are pure: their results depend only on the plan, the length of the training and the epochs at which its
score plateaued. A resumed training therefore cannot forget what it had unfrozen.
"""

import math
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from finetune.tuning.parameter_info import PlanError
from finetune.tuning.plan import Assignment, Milestone

NEVER = math.inf


@dataclass(frozen=True)
class Timeline:
    """The length of a training and the plateaus of its score so far.

    Attributes:
        epochs: length of the training; `sys.maxsize` until it is known.
        plateaus: for each plateau of the monitored score, the epoch that began after it, counted from 0.
        smallest_epochs: smallest `epochs` this run was ever configured with. Fractions refer to it, so extending a run
            never freezes layers again.
    """

    epochs: int = sys.maxsize
    plateaus: tuple[int, ...] = ()
    smallest_epochs: int = sys.maxsize

    @property
    def fraction_base(self) -> int:
        """Number of epochs that fractions of the training refer to."""
        return min(self.epochs, self.smallest_epochs)


def epoch_of(milestone: Milestone, timeline: Timeline, delay: float = 0.0) -> float:
    """Return the first epoch that begins at or after a milestone, counted from 0; infinity if it is not known yet.

    Args:
        milestone: start or stop of a span, as in `Rule.train`.
        timeline: length and plateaus of the training.
        delay: epochs to add to the milestone.

    >>> timeline = Timeline(epochs=10, plateaus=(4,))
    >>> [epoch_of(milestone, timeline) for milestone in (3, 0.25, "plateau", "plateau:2", None)]
    [3, 3, 4, inf, inf]
    """
    position = _position(milestone, timeline, delay)
    return position if position == NEVER else _next_epoch(position)


def plateau_number(milestone: Milestone) -> int:
    """Return which plateau a milestone waits for, counted from 1; 0 if it waits for none.

    Raises:
        PlanError: the milestone is a string with another meaning.
    """
    if milestone == "never" or not isinstance(milestone, str):
        return 0
    parsed = re.fullmatch(r"plateau(?::(\d+))?", milestone)
    if parsed is None or parsed[1] == "0":
        raise PlanError(
            f"'{milestone}' is not a valid start or stop: expected an epoch (3), a fraction of the training (0.25), "
            f"'plateau', 'plateau:2', 'never', or null for the end."
        )
    return int(parsed[1] or 1)


def span_epochs(assignment: Assignment, timeline: Timeline) -> list[tuple[float, float]]:
    """Return the spans in which a layer group trains: the first epoch of each and the epoch after its last."""
    rule, spans = assignment.rule, []
    for start, stop in rule.spans:
        begin = _start(start, timeline, _stagger_epochs(assignment, timeline))
        if rule.stagger == "plateau" and assignment.rank > 0:
            later = [plateau for plateau in timeline.plateaus if plateau > begin]  # each waits for the group above it
            begin = later[assignment.rank - 1] if len(later) >= assignment.rank else NEVER
        spans.append((begin, epoch_of(stop, timeline)))
    return spans


def trains(assignment: Assignment, epoch: int, timeline: Timeline) -> bool:
    """Return whether a layer group trains in an epoch, counted from 0."""
    return any(start <= epoch < stop for start, stop in span_epochs(assignment, timeline))


def trainable(assigned: Mapping[str, Assignment], epoch: int, timeline: Timeline) -> set[str]:
    """Return the names of the parameters that train in an epoch, counted from 0."""
    return {name for name, assignment in assigned.items() if trains(assignment, epoch, timeline)}


def phase_starts(assignments: Iterable[Assignment], timeline: Timeline) -> list[int]:
    """Return the epochs, counted from 0, at which the set of trainable parameters changes; 0 comes first."""
    distinct = set(assignments)
    edges = {edge for a in distinct for span in span_epochs(a, timeline) for edge in span if 0 < edge < timeline.epochs}
    starts = [0]
    for edge in sorted(edges):
        if any(trains(a, int(edge), timeline) != trains(a, starts[-1], timeline) for a in distinct):
            starts.append(int(edge))
    return starts


def plateaus_awaited(assignments: Iterable[Assignment]) -> int:
    """Return how many plateaus of the score the plan waits for in total."""
    count = 0
    for assignment in set(assignments):
        further = assignment.rank if assignment.rule.stagger == "plateau" else 0
        for start, stop in assignment.rule.spans:
            count = max(count, plateau_number(stop), 0 if start == "never" else plateau_number(start) + further)
    return count


def waits_for_plateau(assignments: Iterable[Assignment], epoch: int, timeline: Timeline) -> bool:
    """Return whether the plan waits in an epoch, counted from 0, for the score to stop improving.

    A rule staggered by plateaus that starts at a given epoch ignores the plateaus before that epoch.
    """
    for assignment in set(assignments):
        for (start, stop), (first, end) in zip(assignment.rule.spans, span_epochs(assignment, timeline), strict=True):
            starts = first == NEVER and start not in (None, "never")
            if starts and (plateau_number(start) or epoch_of(start, timeline) <= epoch):
                return True
            if plateau_number(stop) and end == NEVER:
                return True
    return False


def _stagger_epochs(assignment: Assignment, timeline: Timeline) -> float:
    stagger = assignment.rule.stagger
    if isinstance(stagger, str):
        return 0.0
    return assignment.depth * (stagger if isinstance(stagger, int) else stagger * timeline.fraction_base)


def _position(milestone: Milestone, timeline: Timeline, delay: float) -> float:
    if milestone is None or milestone == "never":
        return NEVER
    if isinstance(milestone, str):
        number = plateau_number(milestone)
        return timeline.plateaus[number - 1] + delay if number <= len(timeline.plateaus) else NEVER
    return (milestone if isinstance(milestone, int) else milestone * timeline.fraction_base) + delay


def _start(milestone: Milestone, timeline: Timeline, delay: float) -> float:
    """Return `epoch_of`, but the last epoch for a start inside it: fractions then fit a training of any length."""
    epoch = epoch_of(milestone, timeline, delay)
    before_end = _position(milestone, timeline, delay) < timeline.epochs - 1e-9
    return min(epoch, timeline.epochs - 1) if before_end else epoch


def _next_epoch(epoch: float) -> int:
    return math.ceil(epoch - 1e-9)  # 0.3 * 10 is a little more than 3
