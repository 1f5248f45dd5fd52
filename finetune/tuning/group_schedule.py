"""The course of the learning rates: what each optimizer group's rate is multiplied by at every step."""

from collections.abc import Callable, Iterable

from finetune.tuning.plan import Assignment, Plan
from finetune.tuning.schedules import Schedule
from finetune.tuning.timing import Timeline, phase_starts, span_epochs


class GroupLRSchedule:
    """One schedule for all groups, which keeps their ratios, and the moves that a plan makes on top of it.

    It remembers nothing of the training: every answer follows from the step and the timeline.

    Args:
        plan: how rates follow its phases.
        assignments: of all groups.
        schedule: makes the schedule of so many steps.
        epochs: of the training.
        steps: optimizer steps of an epoch.
        total: optimizer steps of the training, where its last epoch is cut short.

    Attributes:
        curve: the schedule of the whole training.
    """

    def __init__(
        self,
        plan: Plan,
        assignments: Iterable[Assignment],
        schedule: Callable[[int], Schedule],
        epochs: int,
        steps: int,
        total: int | None = None,
    ) -> None:
        self.plan = plan
        self.assignments = frozenset(assignments)
        self.epochs = epochs
        self.steps = steps
        self.total = total or epochs * steps
        self.curve = schedule(self.total)
        self._make = schedule
        self._curves: dict[int, Schedule] = {}
        self._phases: dict[Timeline, list[int]] = {}

    def multiplier(self, assignment: Assignment, step: int, timeline: Timeline) -> float:
        """What a group's learning rate is multiplied by at an optimizer step, counted from 0."""
        starts = self.phases(timeline)
        phase = max(index for index, start in enumerate(starts) if start * self.steps <= step)
        factor = self.plan.phase_lr[min(phase, len(self.plan.phase_lr) - 1)]
        if self.plan.restart_schedule:
            begin = starts[phase] * self.steps
            end = starts[phase + 1] * self.steps if phase + 1 < len(starts) else self.total
            factor *= self._curve(max(1, end - begin))(step - begin)
        else:
            factor *= self.curve(step)
        return factor * self._unfreeze_warmup(assignment, step, timeline)

    def phases(self, timeline: Timeline) -> list[int]:
        """Epochs, from 0 on, at which what trains changes, as far as is known."""
        if timeline not in self._phases:
            self._phases[timeline] = phase_starts(self.assignments, timeline)
        return self._phases[timeline]

    def _curve(self, steps: int) -> Schedule:
        if steps not in self._curves:
            self._curves[steps] = self._make(steps)
        return self._curves[steps]

    def _unfreeze_warmup(self, assignment: Assignment, step: int, timeline: Timeline) -> float:
        warmup = self.plan.warmup
        if not warmup:
            return 1.0
        steps = round(warmup) if warmup >= 1 else max(1, round(warmup * self.total))
        starts = [start * self.steps for start, _ in span_epochs(assignment, timeline) if start * self.steps <= step]
        if not starts or max(starts) == 0:  # the schedule has a warmup of its own for the first
            return 1.0
        return min(1.0, (step - max(starts) + 1) / steps)
