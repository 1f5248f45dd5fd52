"""Learning-rate curves: pure functions from the step to a multiplier of each group's learning rate.

Steps are optimizer steps, counted from 0. A length is an int number of steps, or a float below 1 for a fraction of all
steps. A warmup of w steps begins at 1/w, never at 0, and its last step runs at 1. A curve that falls to `min_lr_ratio`
reaches it on step `total`, one past the last step of the training, and then stays there. Pure curves need no state in
a checkpoint, and they keep the ratios between the groups' learning rates.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence

from finetune.io.messages import suggest

Schedule = Callable[[int], float]
Length = int | float

DECAY_SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda progress: 1 - progress,
    "cosine": lambda progress: _cosine_between(1.0, 0.0, progress),
    "sqrt": lambda progress: 1 - math.sqrt(progress),
}


def constant(total: int, warmup: Length = 0) -> Schedule:
    """Return a curve that stays at 1 after a linear warmup."""
    ramp = warmup_steps(warmup, total)
    return lambda step: min(1.0, (step + 1) / ramp) if ramp else 1.0


def linear(total: int, warmup: Length = 0, min_lr_ratio: float = 0.0) -> Schedule:
    """Return a curve that falls linearly from 1 to `min_lr_ratio` after a linear warmup."""
    return poly(total, warmup, power=1.0, min_lr_ratio=min_lr_ratio)


def cosine(total: int, warmup: Length = 0, min_lr_ratio: float = 0.0) -> Schedule:
    """Return a curve that falls along half a cosine from 1 to `min_lr_ratio` after a linear warmup.

    Source: Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983

    >>> [round(cosine(total=4)(step), 2) for step in range(6)]
    [1.0, 0.85, 0.5, 0.15, 0.0, 0.0]
    """
    check_number("min_lr_ratio", min_lr_ratio, 0, 1)
    return _after_warmup(lambda progress: _cosine_between(1.0, min_lr_ratio, progress), total, warmup)


def poly(total: int, warmup: Length = 0, power: float = 0.9, min_lr_ratio: float = 0.0) -> Schedule:
    """Return a curve that falls as (1 - progress) ** power from 1 to `min_lr_ratio` after a linear warmup.

    It is common in segmentation papers.

    Source: Chen et al. 2017 (DeepLab), https://arxiv.org/abs/1606.00915
    """
    check_number("power", power, 0)
    check_number("min_lr_ratio", min_lr_ratio, 0, 1)
    return _after_warmup(lambda progress: min_lr_ratio + (1 - min_lr_ratio) * (1 - progress) ** power, total, warmup)


def exponential(total: int, warmup: Length = 0, min_lr_ratio: float = 0.01) -> Schedule:
    """Return a curve that falls by the same factor at every step, from 1 to `min_lr_ratio`, after a linear warmup."""
    check_number("min_lr_ratio", min_lr_ratio, 1e-9, 1)
    return _after_warmup(lambda progress: min_lr_ratio**progress, total, warmup)


def step(total: int, warmup: Length = 0, step_size: Length = 0.4, gamma: float = 0.1) -> Schedule:
    """Return a curve that starts at 1 after a linear warmup and is multiplied by `gamma` after every `step_size`."""
    check_number("gamma", gamma, 0, 1)
    ramp, first = constant(total, warmup), warmup_steps(warmup, total)
    length = max(1, steps_of("step_size", step_size, total))
    return lambda step: ramp(step) * gamma ** (max(step - first, 0) // length)


def multi_step(
    total: int, warmup: Length = 0, milestones: Sequence[Length] = (0.67, 0.89), gamma: float = 0.1
) -> Schedule:
    """Return a curve that starts at 1 after a linear warmup and is multiplied by `gamma` at each milestone.

    Args:
        total: steps of the training.
        warmup: length of the warmup.
        milestones: positions counted from the first step of the training, including the warmup; milestones beyond the
            end have no effect.
        gamma: factor at each milestone.

    Source: the defaults are those of Detectron, 60k and 80k of 90k steps: https://arxiv.org/abs/1703.06870
    """
    check_number("gamma", gamma, 0, 1)
    if isinstance(milestones, str) or not isinstance(milestones, Sequence) or not milestones:
        raise ValueError(f"milestones is {milestones!r}, expected a list of one or more, such as [0.6, 0.85].")
    ramp, drops = constant(total, warmup), sorted(steps_of("milestones", length, total) for length in milestones)
    return lambda step: ramp(step) * gamma ** bisect_right(drops, step)


def cosine_restarts(
    total: int, warmup: Length = 0, cycles: int = 3, cycle_mult: float = 1.0, min_lr_ratio: float = 0.0
) -> Schedule:
    """Return a curve of repeated half cosines from 1 to `min_lr_ratio` (SGDR) after a linear warmup.

    Args:
        total: steps of the training; the last cycle ends there.
        warmup: length of the warmup.
        cycles: number of cycles in the steps after the warmup; if there are fewer steps, empty cycles are skipped.
        cycle_mult: length of each cycle divided by that of the previous one.
        min_lr_ratio: lowest multiplier.

    Source: Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983
    """
    check_number("min_lr_ratio", min_lr_ratio, 0, 1)
    ramp, first = constant(total, warmup), warmup_steps(warmup, total)
    position = _cycles(first, total, cycles, cycle_mult)
    return lambda step: ramp(step) if step < first else _cosine_between(1.0, min_lr_ratio, position(step)[1])


def cyclic(total: int, warmup: Length = 0, cycles: int = 4, gamma: float = 1.0, min_lr_ratio: float = 0.1) -> Schedule:
    """Return a curve of repeated triangles between `min_lr_ratio` and 1 after a linear warmup to `min_lr_ratio`.

    Args:
        total: steps of the training; the last cycle ends there.
        warmup: length of the warmup.
        cycles: number of cycles in the steps after the warmup; if there are fewer steps, empty cycles are skipped.
        gamma: height of each cycle above `min_lr_ratio` divided by that of the previous one: 1 is Smith's
            `triangular`, 0.5 his `triangular2`.
        min_lr_ratio: lowest multiplier after the warmup.

    Source: Smith 2017, https://arxiv.org/abs/1506.01186
    """
    check_number("min_lr_ratio", min_lr_ratio, 0, 1)
    check_number("gamma", gamma, 0, 1)
    ramp, first = constant(total, warmup), warmup_steps(warmup, total)
    position = _cycles(first, total, cycles)

    def multiplier(step: int) -> float:
        cycle, progress = position(max(step, first))
        return ramp(step) * (min_lr_ratio + (1 - min_lr_ratio) * gamma**cycle * (1 - abs(2 * progress - 1)))

    return multiplier


def one_cycle(total: int, warmup: Length = 0.3, div_factor: float = 25.0, final_div_factor: float = 1e4) -> Schedule:
    """Return a curve that rises along half a cosine from 1/div_factor to 1 and then falls along another.

    It equals torch's `OneCycleLR` with the group's learning rate as `max_lr` where the warmup is a whole number of
    steps; here it always is. The peak is on step warmup - 1, and the lowest value is reached on the last step.

    Args:
        total: steps of the training.
        warmup: length of the rise.
        div_factor: the first multiplier is 1 / div_factor.
        final_div_factor: the last multiplier is 1 / (div_factor * final_div_factor).

    Source: Smith and Topin 2018, https://arxiv.org/abs/1708.07120
    """
    check_number("div_factor", div_factor, 1)
    check_number("final_div_factor", final_div_factor, 1)
    peak, last, lowest = warmup_steps(warmup, total) - 1, total - 1, 1 / (div_factor * final_div_factor)

    def multiplier(step: int) -> float:
        if step < peak:
            return _cosine_between(1 / div_factor, 1.0, step / peak)
        if step < last:
            return _cosine_between(1.0, lowest, (step - peak) / (last - peak))
        return lowest

    return multiplier


def warmup_stable_decay(
    total: int, warmup: Length = 0, decay: Length = 0.2, shape: str = "linear", min_lr_ratio: float = 0.0
) -> Schedule:
    """Return a curve with a linear warmup, a long plateau at 1, and a decay to `min_lr_ratio` at the end.

    Args:
        total: steps of the training.
        warmup: length of the warmup.
        decay: length of the decay.
        shape: shape of the decay: `linear`, `cosine`, or `sqrt` for 1 - sqrt(progress).
        min_lr_ratio: last multiplier.

    Source: Hu et al. 2024 (MiniCPM), https://arxiv.org/abs/2404.06395; shapes compared in Hägele et al. 2024,
        https://arxiv.org/abs/2405.18392
    """
    check_number("min_lr_ratio", min_lr_ratio, 0, 1)
    if shape not in DECAY_SHAPES:
        raise ValueError(f"there is no decay shape '{shape}'. {suggest(shape, DECAY_SHAPES)}")
    ramp, first, length = constant(total, warmup), warmup_steps(warmup, total), steps_of("decay", decay, total)
    if first + length > total + 1:  # fractions that add up to 1 may be one step too long if both are rounded up
        raise ValueError(f"a warmup of {first} and a decay of {length} steps do not fit into {total}. Shorten one.")
    begin = max(first, total - length)
    fall = _after_warmup(
        lambda progress: min_lr_ratio + (1 - min_lr_ratio) * DECAY_SHAPES[shape](progress), total, begin
    )
    return lambda step: ramp(step) if step < begin else fall(step)


def steps_of(name: str, length: Length, total: int) -> int:
    """Return a length in steps.

    Args:
        name: name of the setting, for messages.
        length: number of steps, or fraction of `total`.
        total: steps of the training.

    Raises:
        ValueError: `length` is neither a number of steps nor a fraction, or `total` is below 1.

    >>> steps_of("warmup", 0.05, 1000), steps_of("warmup", 20, 1000)
    (50, 20)
    """
    if total < 1:
        raise ValueError(f"the schedule runs over {total} steps, but needs at least 1.")
    if isinstance(length, bool) or not isinstance(length, int | float):
        raise ValueError(f"{name} is {length!r}, expected a number of steps, or a fraction of all steps such as 0.05.")
    if length < 0:
        raise ValueError(f"{name} is {length}, expected 0 steps or more, or a fraction of all steps such as 0.05.")
    if isinstance(length, float) and not length < 1:  # also rejects NaN
        raise ValueError(
            f"{name} is {length}, but a float is a fraction of all steps and must be below 1. "
            f"Write {length:.0f} for that many steps, or a fraction such as 0.05."
        )
    return length if isinstance(length, int) else round(length * total)


def warmup_steps(warmup: Length, total: int) -> int:
    """Return the length of a warmup in steps.

    Raises:
        ValueError: the warmup does not fit into `total`.
    """
    steps = steps_of("warmup", warmup, total)
    if steps > total:
        raise ValueError(
            f"a warmup of {steps} steps does not fit into {total} steps of training. "
            f"Shorten it, give a fraction such as warmup=0.05, or train longer."
        )
    return steps


def check_number(name: str, value: float, low: float, high: float = math.inf, whole: bool = False) -> None:
    """Raise ValueError unless the value is a number, or an int if `whole`, from low to high."""
    types: tuple[type, ...] = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, types) or not low <= value <= high:
        bounds = f"of {low:g} or more" if high == math.inf else f"from {low:g} to {high:g}"
        raise ValueError(f"the schedule's {name} is {value!r}, expected a {'whole ' * whole}number {bounds}.")


def _after_warmup(decay: Callable[[float], float], total: int, warmup: Length) -> Schedule:
    """Return a curve with a linear warmup, followed by `decay` of the progress 0..1 through the remaining steps."""
    ramp, first = constant(total, warmup), warmup_steps(warmup, total)

    def multiplier(step: int) -> float:
        if step < first:
            return ramp(step)
        return decay((step - first) / (total - first) if step < total else 1.0)

    return multiplier


def _cycles(first: int, total: int, cycles: int, cycle_mult: float = 1.0) -> Callable[[int], tuple[int, float]]:
    """Return a function from the step to the index of its cycle and the progress 0..1 through that cycle."""
    check_number("cycles", cycles, 1, whole=True)
    check_number("cycle_mult", cycle_mult, 1)
    ends = [sum(cycle_mult**k for k in range(cycle)) for cycle in range(cycles + 1)]
    bounds = [first + round((total - first) * end / ends[-1]) for end in ends]

    def position(step: int) -> tuple[int, float]:
        if step >= total:
            return cycles - 1, 1.0
        cycle = bisect_right(bounds, step) - 1
        return cycle, (step - bounds[cycle]) / (bounds[cycle + 1] - bounds[cycle])

    return position


def _cosine_between(first: float, last: float, progress: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * progress)) / 2
