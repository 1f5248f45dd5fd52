"""The learning-rate multiplier of each optimizer group at every step."""

from collections.abc import Callable, Iterable

from finetune.tuning.plan import Assignment, Plan
from finetune.tuning.schedules import Schedule
from finetune.tuning.timing import Timeline, phase_starts, span_epochs


class GroupLRSchedule:
    """One schedule shared by all groups, combined with the phase factors and warmups of a plan.

    It keeps no state of the training: every multiplier follows from the step and the timeline.

    Args:
        plan: how learning rates change from phase to phase.
        assignments: assignments of all groups.
        schedule: factory that takes a number of steps and returns the schedule over them.
        steps: optimizer steps per epoch.
        total: optimizer steps of the training.

    Attributes:
        curve: schedule over the whole training.
    """

    def __init__(
        self,
        plan: Plan,
        assignments: Iterable[Assignment],
        schedule: Callable[[int], Schedule],
        steps: int,
        total: int,
    ) -> None:
        self.plan = plan
        self.assignments = frozenset(assignments)
        self.steps = steps
        self.total = total
        self.curve = schedule(self.total)
        self._schedule = schedule
        self._curves: dict[int, Schedule] = {}
        self._phases: dict[Timeline, list[int]] = {}

    def multiplier(self, assignment: Assignment, step: int, timeline: Timeline) -> float:
        """Return the factor of a group's peak learning rate at an optimizer step, counted from 0."""
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
        """Return the first epoch of each phase known so far, counted from 0."""
        if timeline not in self._phases:
            self._phases[timeline] = phase_starts(self.assignments, timeline)
        return self._phases[timeline]

    def _curve(self, steps: int) -> Schedule:
        if steps not in self._curves:
            self._curves[steps] = self._schedule(steps)
        return self._curves[steps]

    def _unfreeze_warmup(self, assignment: Assignment, step: int, timeline: Timeline) -> float:
        warmup = self.plan.warmup
        if not warmup:
            return 1.0
        steps = round(warmup) if warmup >= 1 else max(1, round(warmup * self.total))
        starts = [start * self.steps for start, _ in span_epochs(assignment, timeline) if start * self.steps <= step]
        if not starts or max(starts) == 0:  # the schedule has its own warmup at the start of the training
            return 1.0
        return min(1.0, (step - max(starts) + 1) / steps)
