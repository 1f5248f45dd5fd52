"""The budget of a training: a time or a number of steps, and the length that fits into it."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

UNITS = {"s": 1, "m": 60, "h": 3600}
PART = r"(\d+(?:\.\d+)?)([smh])"
MOST_VALIDATIONS = 20
VALIDATION_SHARE = 0.08  # of the time for training, about: often enough to find the best weights
FEWEST_STEPS = 10
LOST = 0.01  # of the steps, that their rounding may cost


@dataclass(frozen=True)
class Budget:
    """What a training may take: one of the two.

    Attributes:
        seconds: from the start of the command to its end; None if steps are given.
        steps: of the optimizer; None if a time is given.
    """

    seconds: float | None = None
    steps: int | None = None


def read_budget(text: str) -> Budget:
    """Return the budget that a text says, such as `10m`, `1h30m`, `90s` or `2000steps`.

    Raises:
        ValueError: any other text.

    >>> read_budget("1h30m"), read_budget("2000steps")
    (Budget(seconds=5400.0, steps=None), Budget(seconds=None, steps=2000))
    """
    if steps := re.fullmatch(r"(\d+) ?steps?", str(text)):
        budget = Budget(steps=int(steps[1]))
    elif re.fullmatch(f"({PART})+", str(text)):
        budget = Budget(seconds=float(sum(float(number) * UNITS[unit] for number, unit in re.findall(PART, text))))
    else:
        budget = Budget(steps=0)
    if not (budget.seconds or budget.steps):
        raise ValueError(f"budget={text}: expected a time such as 10m, 90s or 1h30m, or steps such as 2000steps.")
    return budget


@dataclass(frozen=True)
class Pace:
    """Seconds that the parts of a training take.

    Attributes:
        before: from the start of the command to the first step.
        step: an optimizer step, with the loading of its batches.
        validation: a validation, with the checkpoint after it.
        after: from the last validation to the end of the command: scores, figures and files.
    """

    before: float
    step: float
    validation: float
    after: float

    def seconds(self, length: "Length") -> float:
        """Return the time of a training of this length."""
        return self.before + length.steps * self.step + length.validations * self.validation + self.after


@dataclass(frozen=True)
class Length:
    """The length of a training.

    Attributes:
        steps: of the optimizer.
        validations: evenly spaced, the last one after the last step.
    """

    steps: int
    validations: int

    @property
    def steps_between(self) -> int:
        """Steps from one validation to the next."""
        return self.steps // self.validations


def with_validations(steps: int, validation_steps: float) -> Length:
    """Return a length of at most so many steps, which its validations divide evenly.

    Args:
        steps: of the training, at least 1.
        validation_steps: number of steps that take the time of a validation.

    >>> with_validations(1010, 5), with_validations(100, 30), with_validations(8, 0.14)
    (Length(steps=1008, validations=16), Length(steps=100, validations=1), Length(steps=8, validations=4))
    """
    return _even(_affordable(steps, validation_steps), lambda validations: steps)


def _affordable(steps: int, validation_steps: float) -> int:
    """Return how many validations take about `VALIDATION_SHARE` of the time of the steps; at least 1."""
    affordable = VALIDATION_SHARE * steps / validation_steps if validation_steps > 0 else math.inf
    if affordable < 1:
        return 1
    return min(max(2, round(min(affordable, MOST_VALIDATIONS))), max(1, steps))


def _even(validations: int, steps_with: Callable[[int], int]) -> Length:
    """Return a length whose validations divide its steps: of their number and less, to a half, what drops fewest steps.

    Args:
        validations: wanted, 1 or more.
        steps_with: number of validations -> the steps that there is time for.
    """
    fewest = max(min(2, validations), validations // 2)
    steps = {count: steps_with(count) for count in range(validations, fewest - 1, -1)}
    lost = {count: each % count if each % count > LOST * each else 0 for count, each in steps.items()}
    best = min(lost, key=lambda count: lost[count])
    return Length(steps[best] - steps[best] % best, best)


def fit_budget(seconds: float, pace: Pace) -> Length:
    """Return the longest training that ends in time.

    Args:
        seconds: of the budget.
        pace: of the training.

    Raises:
        ValueError: there is no time for a few steps.
    """
    left = seconds - pace.before - pace.after
    validation_steps = pace.validation / pace.step

    def steps_with(validations: int) -> int:
        return int((left - validations * pace.validation) / pace.step)

    # the number of validations depends on that of the steps, and takes time from them
    validations = 1
    for _ in range(10):
        validations = _affordable(steps_with(validations), validation_steps)
    length = _even(validations, steps_with)
    length = length if length.steps >= FEWEST_STEPS else _even(1, steps_with)
    if length.steps < FEWEST_STEPS:
        needed = pace.before + pace.after + FEWEST_STEPS * pace.step + pace.validation
        raise ValueError(
            f"there is no time for {FEWEST_STEPS} steps: start and end take {pace.before + pace.after:.0f} s, a "
            f"step {pace.step:.2g} s, a validation {pace.validation:.2g} s. Set {math.ceil(needed)}s or more."
        )
    return length
