"""Curves of the learning rate: pure functions from the step to a multiplier of each group's rate.

Steps are optimizer steps, counted from 0. A length is a whole number of steps, or a float below 1 for a share of all
steps. The first step of a warmup of w steps runs at 1/w, never at 0, and its last at 1; a curve that comes down to a
min_lr_ratio reaches it on step `total`, which is one past the last step of training, and stays. Being pure, a curve
needs no state in a checkpoint, and it leaves the ratios between groups as they are.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence

Schedule = Callable[[int], float]
Length = int | float

WAYS_DOWN: dict[str, Callable[[float], float]] = {
    "linear": lambda progress: 1 - progress,
    "cosine": lambda progress: _cosine_between(1.0, 0.0, progress),
    "sqrt": lambda progress: 1 - math.sqrt(progress),
}


def constant(total: int, warmup: Length = 0) -> Schedule:
    """1, after a linear warmup."""
    ramp = warmup_steps(warmup, total)
    return lambda step: min(1.0, (step + 1) / ramp) if ramp else 1.0


def linear(total: int, warmup: Length = 0, min_lr_ratio: float = 0.0) -> Schedule:
    """A straight line from 1 down to `min_lr_ratio`, after a linear warmup."""
    return poly(total, warmup, power=1.0, min_lr_ratio=min_lr_ratio)


def cosine(total: int, warmup: Length = 0, min_lr_ratio: float = 0.0) -> Schedule:
    """Half a cosine from 1 down to `min_lr_ratio`, after a linear warmup.

    Source: Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983

    >>> [round(cosine(total=4)(step), 2) for step in range(6)]
    [1.0, 0.85, 0.5, 0.15, 0.0, 0.0]
    """
    check_number("min_lr_ratio", min_lr_ratio, 0, 1)
    return _after_warmup(lambda progress: _cosine_between(1.0, min_lr_ratio, progress), total, warmup)


def poly(total: int, warmup: Length = 0, power: float = 0.9, min_lr_ratio: float = 0.0) -> Schedule:
    """(1 - progress) ** power from 1 down to `min_lr_ratio`, after a linear warmup; common in segmentation papers.

    Source: Chen et al. 2017 (DeepLab), https://arxiv.org/abs/1606.00915
    """
    check_number("power", power, 0)
    check_number("min_lr_ratio", min_lr_ratio, 0, 1)
    return _after_warmup(lambda progress: min_lr_ratio + (1 - min_lr_ratio) * (1 - progress) ** power, total, warmup)


def exponential(total: int, warmup: Length = 0, min_lr_ratio: float = 0.01) -> Schedule:
    """By the same factor at every step, from 1 down to `min_lr_ratio`, after a linear warmup."""
    check_number("min_lr_ratio", min_lr_ratio, 1e-9, 1)
    return _after_warmup(lambda progress: min_lr_ratio**progress, total, warmup)


def step(total: int, warmup: Length = 0, step_size: Length = 0.4, gamma: float = 0.1) -> Schedule:
    """After a linear warmup 1, then times `gamma` at the end of `step_size` such length that follows."""
    check_number("gamma", gamma, 0, 1)
    ramp, first = constant(total, warmup), warmup_steps(warmup, total)
    length = max(1, steps_of("step_size", step_size, total))
    return lambda step: ramp(step) * gamma ** (max(step - first, 0) // length)


def multi_step(
    total: int, warmup: Length = 0, milestones: Sequence[Length] = (0.67, 0.89), gamma: float = 0.1
) -> Schedule:
    """After a linear warmup 1, then times `gamma` at each milestone.

    Args:
        total: steps of training.
        warmup: its length.
        milestones: counted from the first step of training, warmup included; one beyond the end never comes.
        gamma: factor of each drop.

    Source: the default is Detectron's, 60k and 80k of 90k steps: https://arxiv.org/abs/1703.06870
    """
    check_number("gamma", gamma, 0, 1)
    if isinstance(milestones, str) or not isinstance(milestones, Sequence) or not milestones:
        raise ValueError(f"milestones is {milestones!r}, expected a list of one or more, such as [0.6, 0.85].")
    ramp, places = constant(total, warmup), sorted(steps_of("milestones", place, total) for place in milestones)
    return lambda step: ramp(step) * gamma ** bisect_right(places, step)


def cosine_restarts(
    total: int, warmup: Length = 0, cycles: int = 3, cycle_mult: float = 1.0, min_lr_ratio: float = 0.0
) -> Schedule:
    """Half a cosine from 1 down to `min_lr_ratio`, again and again (SGDR), after a linear warmup.

    Args:
        total: steps of training; the last cycle ends there.
        warmup: its length.
        cycles: in the steps after the warmup; where these are fewer, cycles of no step are left out.
        cycle_mult: each cycle is so many times as long as the one before.
        min_lr_ratio: lowest multiplier.

    Source: Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983
    """
    check_number("min_lr_ratio", min_lr_ratio, 0, 1)
    ramp, first = constant(total, warmup), warmup_steps(warmup, total)
    place = _cycles(first, total, cycles, cycle_mult)
    return lambda step: ramp(step) if step < first else _cosine_between(1.0, min_lr_ratio, place(step)[1])


def cyclic(total: int, warmup: Length = 0, cycles: int = 4, gamma: float = 1.0, min_lr_ratio: float = 0.1) -> Schedule:
    """Up from `min_lr_ratio` to 1 and down again in straight lines, again and again, after a warmup to `min_lr_ratio`.

    Args:
        total: steps of training; the last cycle ends there.
        warmup: its length.
        cycles: in the steps after the warmup; where these are fewer, cycles of no step are left out.
        gamma: factor from the height of a cycle above `min_lr_ratio` to the next: 1 is Smith's `triangular`, 0.5
            his `triangular2`.
        min_lr_ratio: lowest multiplier after the warmup.

    Source: Smith 2017, https://arxiv.org/abs/1506.01186
    """
    check_number("min_lr_ratio", min_lr_ratio, 0, 1)
    check_number("gamma", gamma, 0, 1)
    ramp, first = constant(total, warmup), warmup_steps(warmup, total)
    place = _cycles(first, total, cycles)

    def multiplier(step: int) -> float:
        cycle, progress = place(max(step, first))
        return ramp(step) * (min_lr_ratio + (1 - min_lr_ratio) * gamma**cycle * (1 - abs(2 * progress - 1)))

    return multiplier


def one_cycle(total: int, warmup: Length = 0.3, div_factor: float = 25.0, final_div_factor: float = 1e4) -> Schedule:
    """Half a cosine up from 1/div_factor to 1, then one down: torch's OneCycleLR with the group's own rate as peak.

    As in torch the peak is step warmup - 1, and the lowest value already comes on the last step, total - 1.

    Args:
        total: steps of training.
        warmup: length of the way up.
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
    """Linear warmup, then 1, and only at the end down to `min_lr_ratio`.

    Args:
        total: steps of training.
        warmup: its length.
        decay: length of the way down.
        shape: of the way down: `linear`, `cosine`, or `sqrt` for 1 - sqrt(progress).
        min_lr_ratio: last multiplier.

    Source: Hu et al. 2024 (MiniCPM), https://arxiv.org/abs/2404.06395; shapes compared in Hägele et al. 2024,
        https://arxiv.org/abs/2405.18392
    """
    check_number("min_lr_ratio", min_lr_ratio, 0, 1)
    if shape not in WAYS_DOWN:
        raise ValueError(f"there is no shape '{shape}' of a decay. Choose from: {', '.join(WAYS_DOWN)}.")
    ramp, first, down = constant(total, warmup), warmup_steps(warmup, total), steps_of("decay", decay, total)
    if first + down > total + 1:  # shares that fit may be one step too long, both rounded up
        raise ValueError(f"a warmup of {first} and a decay of {down} steps do not fit into {total}. Shorten one.")
    begin = max(first, total - down)
    fall = _after_warmup(lambda progress: min_lr_ratio + (1 - min_lr_ratio) * WAYS_DOWN[shape](progress), total, begin)
    return lambda step: ramp(step) if step < begin else fall(step)


def steps_of(name: str, length: Length, total: int) -> int:
    """A length in steps.

    Raises:
        ValueError: neither a number of steps nor a share of them, or no training at all.

    >>> steps_of("warmup", 0.05, 1000), steps_of("warmup", 20, 1000)
    (50, 20)
    """
    if total < 1:
        raise ValueError(f"the schedule runs over {total} steps, but needs at least 1.")
    if isinstance(length, bool) or not isinstance(length, int | float):
        raise ValueError(f"{name} is {length!r}, expected a number of steps, or a share of them such as 0.05.")
    if length < 0:
        raise ValueError(f"{name} is {length}, expected 0 steps or more, or a share of all steps such as 0.05.")
    if isinstance(length, float) and not length < 1:  # NaN is refused too
        raise ValueError(
            f"{name} is {length}, but a float is a share of all steps and lies in 0..1. "
            f"Write {length:.0f} for that many steps, or a share such as 0.05."
        )
    return length if isinstance(length, int) else round(length * total)


def warmup_steps(warmup: Length, total: int) -> int:
    """A warmup in steps.

    Raises:
        ValueError: it does not fit into `total`.
    """
    steps = steps_of("warmup", warmup, total)
    if steps > total:
        raise ValueError(
            f"a warmup of {steps} steps does not fit into {total} steps of training. "
            f"Shorten it, give a share such as warmup=0.05, or train longer."
        )
    return steps


def check_number(name: str, value: float, low: float, high: float = math.inf, whole: bool = False) -> None:
    """Raise a ValueError unless the value is a number, or a whole one, from low to high."""
    kinds: tuple[type, ...] = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        span = f"of {low:g} or more" if high == math.inf else f"from {low:g} to {high:g}"
        raise ValueError(f"the schedule's {name} is {value!r}, expected a {'whole ' * whole}number {span}.")


def _after_warmup(decay: Callable[[float], float], total: int, warmup: Length) -> Schedule:
    """Linear warmup, then `decay` of the progress 0..1 through the steps left."""
    ramp, first = constant(total, warmup), warmup_steps(warmup, total)

    def multiplier(step: int) -> float:
        if step < first:
            return ramp(step)
        return decay((step - first) / (total - first) if step < total else 1.0)

    return multiplier


def _cycles(first: int, total: int, cycles: int, cycle_mult: float = 1.0) -> Callable[[int], tuple[int, float]]:
    """Which cycle a step lies in, and the progress 0..1 through it."""
    check_number("cycles", cycles, 1, whole=True)
    check_number("cycle_mult", cycle_mult, 1)
    ends = [sum(cycle_mult**k for k in range(cycle)) for cycle in range(cycles + 1)]
    bounds = [first + round((total - first) * end / ends[-1]) for end in ends]

    def place(step: int) -> tuple[int, float]:
        if step >= total:
            return cycles - 1, 1.0
        cycle = bisect_right(bounds, step) - 1
        return cycle, (step - bounds[cycle]) / (bounds[cycle + 1] - bounds[cycle])

    return place


def _cosine_between(first: float, last: float, progress: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * progress)) / 2
