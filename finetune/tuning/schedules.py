"""Learning-rate schedules by name: the pure curves, and a schedule that reduces on plateaus of a score."""

from bisect import bisect_right
from collections.abc import Callable
from inspect import signature
from typing import Any

from finetune.io.messages import suggest
from finetune.metrics.monitor import monitor_mode
from finetune.tuning import lr_curves as curves
from finetune.tuning.lr_curves import Length, Schedule, check_number
from finetune.tuning.plateau_detector import PlateauDetector

__all__ = ["SCHEDULES", "Plateau", "Schedule", "schedule"]


class Plateau:
    """A schedule that is multiplied by a factor at each plateau of a score, after a linear warmup.

    The multiplier depends on the step, as for all schedules, and on the reductions so far, which a checkpoint must
    hold. Pass `lambda step: plateau(step)` to torch's `LambdaLR`, which would otherwise store this object's attributes.

    Args:
        total: steps of the training.
        warmup: length of the warmup, in steps or as a fraction of `total`.
        monitor: name of the logged score.
        mode: `auto`, `max` or `min`; see `monitor_mode`.
        factor: factor of each reduction.
        patience: number of consecutive validations without improvement before a reduction.
        min_delta: a score is an improvement if it is better than the best one by more than this.
        cooldown: number of validations after a reduction that do not count towards the next one.
        min_lr_ratio: lowest multiplier.

    Attributes:
        reductions: first step of each reduction, ascending.
        detector: detector of the plateaus.
    """

    def __init__(
        self,
        total: int,
        warmup: Length = 0,
        monitor: str = "val/iou",
        mode: str = "auto",
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
        self.min_lr_ratio = min_lr_ratio
        self.detector = PlateauDetector(patience, monitor_mode(monitor, mode), min_delta)
        self.reductions: list[int] = []
        self._cooldown_left = 0
        self._ramp = curves.constant(total, warmup)

    def __call__(self, step: int) -> float:
        """Return the multiplier at a step; later reductions do not change it."""
        return self._ramp(step) * self._level(bisect_right(self.reductions, step))

    def report(self, score: float, step: int) -> bool:
        """Take the score of a validation and return whether it caused a reduction; none goes below `min_lr_ratio`.

        Args:
            score: the monitored score; NaN is never an improvement.
            step: number of optimizer steps so far; a reduction applies from this step on.
        """
        plateaued = self.detector.update(score)
        if self._cooldown_left:
            self._cooldown_left -= 1
            self.detector.waited = 0
            return False
        if not plateaued or self._level(len(self.reductions)) <= self.min_lr_ratio:
            return False
        self.reductions = [*self.reductions, step]
        self._cooldown_left = self.cooldown
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return the reductions and the state of the detector as plain data."""
        return {
            "reductions": list(self.reductions),
            "cooldown_left": self._cooldown_left,
            "detector": self.detector.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state from a `state_dict`."""
        self.reductions, self._cooldown_left = list(state["reductions"]), state["cooldown_left"]
        self.detector.load_state_dict(state["detector"])

    def _level(self, reductions: int) -> float:
        return max(self.min_lr_ratio, self.factor**reductions)


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
    """Build a schedule by name.

    Args:
        name: one of `SCHEDULES`.
        total: steps of the training.
        warmup: int number of steps, or a float below 1 for a fraction of `total`; None keeps the schedule's default.
        options: further arguments of the schedule, such as `min_lr_ratio` or `power`.

    Raises:
        ValueError: a name or option is unknown, a value is out of range, or the lengths do not fit into `total`.
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
