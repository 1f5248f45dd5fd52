"""When it trains: the moments of a plan become epochs, and epochs become sets of trainable parameters.

All of it are pure functions of the length of the training and of the epochs at which its score plateaued, so a resumed
training cannot forget what it had unfrozen.
"""

import math
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from finetune.tuning.parameter_info import PlanError
from finetune.tuning.plan import Assignment, Moment

NEVER = math.inf


@dataclass(frozen=True)
class Timeline:
    """How long a training is, and when its score plateaued.

    Attributes:
        epochs: of the whole training; without end until that is known.
        plateaus: epochs, counted from 0, that began after the monitored score had stopped improving.
        shortest: epochs of the shortest that this training was meant to be, if it has been made longer since. Shares
            are of these, so that what a longer training has unfrozen does not freeze again.
    """

    epochs: int = sys.maxsize
    plateaus: tuple[int, ...] = ()
    shortest: int = sys.maxsize

    @property
    def shared(self) -> int:
        """Epochs that shares of the training are of."""
        return min(self.epochs, self.shortest)


def epoch_of(moment: Moment, timeline: Timeline, delay: float = 0.0) -> float:
    """The first epoch that begins at or after a moment, counted from 0; infinity for what has not come.

    Args:
        moment: as in a rule.
        timeline: whose epochs are counted.
        delay: epochs to add.

    >>> timeline = Timeline(epochs=10, plateaus=(4,))
    >>> [epoch_of(moment, timeline) for moment in (3, 0.25, "plateau", "plateau:2", None)]
    [3, 3, 4, inf, inf]
    """
    position = _position(moment, timeline, delay)
    return position if position == NEVER else _whole(position)


def plateau_number(moment: Moment) -> int:
    """Which plateau a moment is, from 1; 0 for moments that are none.

    Raises:
        PlanError: words that are no moment.
    """
    if moment == "never" or not isinstance(moment, str):
        return 0
    parsed = re.fullmatch(r"plateau(?::(\d+))?", moment)
    if parsed is None or parsed[1] == "0":
        raise PlanError(
            f"'{moment}' is no moment of a training: expected an epoch (3), a share of training (0.25), 'plateau', "
            f"'plateau:2', 'never', or null for the end."
        )
    return int(parsed[1] or 1)


def span_epochs(assignment: Assignment, timeline: Timeline) -> list[tuple[float, float]]:
    """First epoch and the one after the last of each span in which a layer group trains."""
    rule, spans = assignment.rule, []
    for start, stop in rule.spans:
        begin = _start(start, timeline, _spread_epochs(assignment, timeline))
        if rule.stagger == "plateau" and assignment.rank > 0:
            since = [plateau for plateau in timeline.plateaus if plateau > begin]  # each waits for the one above
            begin = since[assignment.rank - 1] if len(since) >= assignment.rank else NEVER
        spans.append((begin, epoch_of(stop, timeline)))
    return spans


def trains(assignment: Assignment, epoch: int, timeline: Timeline) -> bool:
    """Whether a layer group trains in an epoch, counted from 0."""
    return any(start <= epoch < stop for start, stop in span_epochs(assignment, timeline))


def trainable(assigned: Mapping[str, Assignment], epoch: int, timeline: Timeline) -> set[str]:
    """Names of the parameters that train in an epoch, counted from 0."""
    return {name for name, assignment in assigned.items() if trains(assignment, epoch, timeline)}


def phase_starts(assignments: Iterable[Assignment], timeline: Timeline) -> list[int]:
    """Epochs, from 0 on, at which what trains changes."""
    distinct = set(assignments)
    edges = {edge for a in distinct for span in span_epochs(a, timeline) for edge in span if 0 < edge < timeline.epochs}
    starts = [0]
    for edge in sorted(edges):
        if any(trains(a, int(edge), timeline) != trains(a, starts[-1], timeline) for a in distinct):
            starts.append(int(edge))
    return starts


def plateaus_awaited(assignments: Iterable[Assignment]) -> int:
    """How many plateaus of the score the plan waits for in all."""
    awaited = 0
    for assignment in set(assignments):
        ranks = assignment.rank if assignment.rule.stagger == "plateau" else 0
        for start, stop in assignment.rule.spans:
            awaited = max(awaited, plateau_number(stop), 0 if start == "never" else plateau_number(start) + ranks)
    return awaited


def waits_for_plateau(assignments: Iterable[Assignment], epoch: int, timeline: Timeline) -> bool:
    """Whether the plan waits in an epoch, counted from 0, for the score to stop improving.

    Where layer groups follow at each plateau from a given epoch on, those of earlier epochs are not waited for.
    """
    for assignment in set(assignments):
        for (start, stop), (first, end) in zip(assignment.rule.spans, span_epochs(assignment, timeline), strict=True):
            starts = first == NEVER and start not in (None, "never")
            if starts and (plateau_number(start) or epoch_of(start, timeline) <= epoch):
                return True
            if plateau_number(stop) and end == NEVER:
                return True
    return False


def _spread_epochs(assignment: Assignment, timeline: Timeline) -> float:
    spread = assignment.rule.stagger
    if isinstance(spread, str):
        return 0.0
    return assignment.depth * (spread if isinstance(spread, int) else spread * timeline.shared)


def _position(moment: Moment, timeline: Timeline, delay: float) -> float:
    if moment is None or moment == "never":
        return NEVER
    if isinstance(moment, str):
        number = plateau_number(moment)
        return timeline.plateaus[number - 1] + delay if number <= len(timeline.plateaus) else NEVER
    return (moment if isinstance(moment, int) else moment * timeline.shared) + delay


def _start(moment: Moment, timeline: Timeline, delay: float) -> float:
    """As `epoch_of`; but what lies inside the last epoch begins with it, so that shares fit any length of training."""
    epoch = epoch_of(moment, timeline, delay)
    inside = _position(moment, timeline, delay) < timeline.epochs - 1e-9
    return min(epoch, timeline.epochs - 1) if inside else epoch


def _whole(epoch: float) -> int:
    return math.ceil(epoch - 1e-9)  # 0.3 * 10 is a little more than 3
