"""Learning-rate schedules by name: the pure curves, and the one that waits for a score to plateau."""

from bisect import bisect_right
from collections.abc import Callable
from inspect import signature
from typing import Any

from finetune.io.messages import suggest
from finetune.tuning import lr_curves as curves
from finetune.tuning.lr_curves import Length, Schedule, check_number
from finetune.tuning.plateau_detector import PlateauDetector

__all__ = ["SCHEDULES", "Plateau", "Schedule", "schedule"]


class Plateau:
    """A schedule that falls by a factor whenever the score has stopped improving, after a linear warmup.

    It is a function of the step as all schedules are, and of the reductions decided so far, which a checkpoint has
    to keep. Torch's LambdaLR would store the attributes of this object itself; give it `lambda step: plateau(step)`.

    Args:
        total: steps of training.
        warmup: its length, in steps or as a share of `total`.
        monitor: name of the logged score that is to be reported.
        mode: `max` if higher is better, `min` if lower.
        factor: of each reduction.
        patience: validations in a row without improvement before a reduction.
        min_delta: a score improves if it is better than the best one by more than this.
        cooldown: validations after a reduction that do not count towards the next one.
        min_lr_ratio: lowest multiplier.

    Attributes:
        reductions: the first step of each, ascending.
        detector: of the plateaus.
    """

    def __init__(
        self,
        total: int,
        warmup: Length = 0,
        monitor: str = "val/iou",
        mode: str = "max",
        factor: float = 0.1,
        patience: int = 5,
        min_delta: float = 0.0,
        cooldown: int = 0,
        min_lr_ratio: float = 0.0,
    ) -> None:
        check_number("factor", factor, 0, 0.99)
        check_number("min_lr_ratio", min_lr_ratio, 0, 1)
        check_number("cooldown", cooldown, 0, whole=True)
        self.monitor = monitor
        self.factor = factor
        self.cooldown = cooldown
        self.floor = min_lr_ratio
        self.detector = PlateauDetector(patience, mode, min_delta)
        self.reductions: list[int] = []
        self._resting = 0
        self._ramp = curves.constant(total, warmup)

    def __call__(self, step: int) -> float:
        """The multiplier at a step; what was decided after it does not change it."""
        return self._ramp(step) * self._height(bisect_right(self.reductions, step))

    def report(self, score: float, step: int) -> bool:
        """Take note of a score, and say whether it brought a reduction; none is made at the min_lr_ratio.

        Args:
            score: the monitored one; NaN is no improvement.
            step: the next optimizer step, which is the number of those done; a reduction holds from it on.
        """
        plateaued = self.detector.update(score)
        if self._resting:
            self._resting -= 1
            self.detector.waited = 0
            return False
        if not plateaued or self._height(len(self.reductions)) <= self.floor:
            return False
        self.reductions = [*self.reductions, step]
        self._resting = self.cooldown
        return True

    def state_dict(self) -> dict[str, Any]:
        """What has been reported and decided, as plain data."""
        return {"reductions": list(self.reductions), "resting": self._resting, "detector": self.detector.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self.reductions, self._resting = list(state["reductions"]), state["resting"]
        self.detector.load_state_dict(state["detector"])

    def _height(self, reductions: int) -> float:
        return max(self.floor, self.factor**reductions)


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": curves.constant,
    "linear": curves.linear,
    "cosine": curves.cosine,
    "poly": curves.poly,
    "exponential": curves.exponential,
    "step": curves.step,
    "multi_step": curves.multi_step,
    "cosine_restarts": curves.cosine_restarts,
    "cyclic": curves.cyclic,
    "one_cycle": curves.one_cycle,
    "warmup_stable_decay": curves.warmup_stable_decay,
    "plateau": Plateau,
}


def schedule(name: str, total: int, warmup: Length | None = None, **options: Any) -> Schedule:
    """The schedule of that name, ready to be called with a step.

    Args:
        name: one of `SCHEDULES`.
        total: steps of training.
        warmup: a whole number of steps, or a float below 1 for a share of `total`; None leaves it to the schedule.
        options: what else the schedule takes, such as `min_lr_ratio` or `power`.

    Raises:
        ValueError: unknown name or option, a value out of its range, or lengths that do not fit into `total`.
    """
    if name not in SCHEDULES:
        raise ValueError(f"there is no schedule '{name}'. {suggest(name, SCHEDULES)}")
    factory = SCHEDULES[name]
    known = [option for option in signature(factory).parameters if option not in ("total", "warmup")]
    for option in options:
        if option not in known:
            raise ValueError(f"the schedule '{name}' has no option '{option}'. {suggest(option, known)}")
    if warmup is not None:
        options["warmup"] = warmup
    return factory(total, **options)
