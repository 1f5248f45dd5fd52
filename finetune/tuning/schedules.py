"""Learning-rate schedules: pure functions from the step to a multiplier of each group's learning rate.

Steps are optimizer steps, counted from 0. The first step of a warmup of w steps runs at 1/w, never at 0, and its last
at 1. The floor is reached on step `total`, which is one past the last step of training, and kept from there on. Being
pure, a schedule needs no state in a checkpoint, and it leaves the ratios between groups as they are.
"""

import math
from collections.abc import Callable
from difflib import get_close_matches
from inspect import signature

Schedule = Callable[[int], float]


def constant(total: int, warmup: int = 0) -> Schedule:
    """1, after a linear warmup; it takes `total` only to be called like the others."""
    return _after_warmup(lambda progress: 1.0, total, warmup)


def cosine(total: int, warmup: int = 0, floor: float = 0.0) -> Schedule:
    """Half a cosine from 1 down to `floor`, after a linear warmup.

    Source: Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983

    >>> [round(cosine(total=4)(step), 2) for step in range(6)]
    [1.0, 0.85, 0.5, 0.15, 0.0, 0.0]
    """
    return _after_warmup(lambda progress: _cosine_between(1.0, floor, progress), total, warmup)


def poly(total: int, warmup: int = 0, power: float = 0.9, floor: float = 0.0) -> Schedule:
    """(1 - progress) ** power from 1 down to `floor`, after a linear warmup; common in segmentation papers.

    Source: Chen et al. 2017 (DeepLab), https://arxiv.org/abs/1606.00915
    """
    return _after_warmup(lambda progress: floor + (1 - floor) * (1 - progress) ** power, total, warmup)


def one_cycle(total: int, warmup: int | None = None, start: float = 25.0, final: float = 1e4) -> Schedule:
    """Up half a cosine from 1/start to 1, then down another: torch's OneCycleLR, with the group's own rate as peak.

    As in torch the peak is step warmup - 1, and the lowest value already comes on the last step, total - 1.

    Args:
        total: steps of training.
        warmup: steps of the way up; None takes 30 % of `total`.
        start: the first multiplier is 1 / start.
        final: the last multiplier is 1 / (start * final).

    Source: Smith and Topin 2018, https://arxiv.org/abs/1708.07120
    """
    warmup = round(0.3 * total) if warmup is None else warmup
    _check_lengths(total, warmup)
    peak, last, lowest = warmup - 1, total - 1, 1 / (start * final)

    def multiplier(step: int) -> float:
        if step < peak:
            return _cosine_between(1 / start, 1.0, step / peak)
        if step < last:
            return _cosine_between(1.0, lowest, (step - peak) / (last - peak))
        return lowest

    return multiplier


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": constant,
    "cosine": cosine,
    "poly": poly,
    "one_cycle": one_cycle,
}


def schedule(name: str, total: int, warmup: int | float | None = None, **options: float) -> Schedule:
    """The schedule of that name, ready to be called with a step.

    Args:
        name: one of `SCHEDULES`.
        total: steps of training.
        warmup: a whole number of steps, or a float below 1 for a share of `total`; None leaves it to the schedule.
        options: what else the schedule takes, such as `floor` or `power`.

    Raises:
        ValueError: unknown name or option, or a warmup that does not fit into `total`.
    """
    if name not in SCHEDULES:
        raise ValueError(f"there is no schedule '{name}'.{_nearest(name, SCHEDULES)}")
    factory = SCHEDULES[name]
    known = [option for option in signature(factory).parameters if option not in ("total", "warmup")]
    for option in options:
        if option not in known:
            raise ValueError(f"the schedule '{name}' has no option '{option}'.{_nearest(option, known)}")
    if warmup is not None:
        options["warmup"] = _warmup_steps(warmup, total)
    return factory(total, **options)


def _nearest(name: str, known: list[str] | dict[str, Callable[..., Schedule]]) -> str:
    near = get_close_matches(name, known, n=1, cutoff=0.4)
    return (f" Did you mean '{near[0]}'?" if near else "") + f" Choose from: {', '.join(known) or '(it has none)'}."


def _warmup_steps(warmup: int | float, total: int) -> int:
    if isinstance(warmup, int):
        return warmup
    if not 0 <= warmup < 1:
        raise ValueError(
            f"warmup is {warmup}, but a float is a share of all steps and lies in 0..1. "
            f"Write {round(warmup)} for that many steps, or a share such as 0.05."
        )
    return round(warmup * total)


def _check_lengths(total: int, warmup: int) -> None:
    if total < 1:
        raise ValueError(f"the schedule runs over {total} steps, but needs at least 1.")
    if not 0 <= warmup <= total:
        raise ValueError(
            f"a warmup of {warmup} steps does not fit into {total} steps of training. "
            f"Shorten it, give a share such as warmup=0.05, or train longer."
        )


def _after_warmup(decay: Callable[[float], float], total: int, warmup: int) -> Schedule:
    """Linear warmup, then `decay` of the progress 0..1 through the steps left."""
    _check_lengths(total, warmup)

    def multiplier(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return decay((step - warmup) / (total - warmup) if step < total else 1.0)

    return multiplier


def _cosine_between(first: float, last: float, progress: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * progress)) / 2
