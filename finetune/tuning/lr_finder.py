"""Finds a learning rate by a range test: steps at ever higher rates show where the loss falls.

Source: Smith 2017, https://arxiv.org/abs/1506.01186
"""

import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

FEWEST = 10  # points that a curve needs before it says anything


@dataclass(frozen=True)
class LRFinding:
    """What a range test has seen.

    Attributes:
        rates: learning rates of the group with the highest one, ascending.
        losses: of one batch each, before the step at that rate.
        smoothed: their running mean.
        base: the learning rate that this group had before; `suggestion / base` is the factor for all groups.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    base: float

    @property
    def suggestion(self) -> float:
        """That of `valley`: it rests on the whole fall of the loss, where the others rest on a single point of it.

        Raises:
            ValueError: as `suggestions`.
        """
        return self.suggestions["valley"]

    @property
    def suggestions(self) -> dict[str, float]:
        """A learning rate by each of three rules, on the smoothed curve without its first tenth.

        `valley` is the middle of the longest fall (the longest decreasing subsequence, after fastai); `steepest` is
        where the loss falls most a decade; `minimum` is a tenth of the rate at the lowest loss.

        Raises:
            ValueError: fewer than 10 points, or a loss that does not fall by more than its noise.
        """
        self._check()
        skipped = len(self.rates) // 10  # the mean is still of few batches there
        rates, curve = np.array(self.rates[skipped:]), np.array(self.smoothed[skipped:])
        return {
            "valley": float(rates[_middle_of_longest_fall(curve.tolist())]),
            "steepest": float(rates[np.gradient(curve, np.log(rates)).argmin()]),
            "minimum": float(rates[curve.argmin()]) / 10,
        }

    def _check(self) -> None:
        if len(self.rates) < FEWEST:
            raise ValueError(
                f"the learning-rate search has only {len(self.rates)} points before the loss burst or the batches "
                f"ended; it needs {FEWEST}. Begin at a lower rate, take more steps, or give more batches."
            )
        curve = self.smoothed[len(self.rates) // 10 :]
        lowest = int(np.argmin(curve))
        fall = max(curve[: lowest + 1]) - curve[lowest]
        noise = float(np.median(np.abs(np.diff(self.losses))))  # the median, so that fall and burst do not count
        if fall <= 2 * noise:
            raise ValueError(
                f"the loss does not fall at any learning rate from {self.rates[0]:.1e} to {self.rates[-1]:.1e}: by "
                f"{fall:.2g} at most, where one batch differs from the next by {noise:.2g}. Search a wider range with "
                f"more steps, take larger batches, or check that the model learns at all."
            )


def find_lr(
    model: nn.Module,
    loss_of_batch: Callable[[Any], Tensor],
    optimizer: Optimizer,
    batches: Iterable[Any],
    low: float = 1e-6,
    high: float = 10.0,
    steps: int = 100,
    smoothing: float = 0.9,
    diverge: float = 4.0,
    accumulate: int = 1,
) -> LRFinding:
    """Train for some steps at exponentially rising learning rates, then put everything back as it was.

    The rates of all groups rise by one factor, so the ratios between them stay. The search ends early where the
    smoothed loss exceeds its lowest value `diverge` times, or a loss is not finite.

    Args:
        model: in the modes it trains in.
        loss_of_batch: scalar loss of the model on a batch, with its graph.
        optimizer: of the model's parameters, with the learning rates whose ratios are kept.
        batches: begun anew when they are used up; an iterator ends the search then. Its position is not put back.
        low: first rate of the group with the highest rate among those that train.
        high: last rate of it.
        steps: optimizer steps.
        smoothing: weight of the past in the running mean of the losses, whose start is corrected for bias. With
            the 0.98 of others the mean would span 50 steps, half of the search, and turn long after the loss.
        diverge: how many times the lowest smoothed loss is too much.
        accumulate: batches whose gradients make one step, as in the training; the loss of a step is their mean.

    Raises:
        ValueError: a range, or an optimizer, that cannot be searched.
    """
    _check_search(low, high, steps, smoothing, diverge)
    base = _highest_rate(optimizer)
    shares = [float(group["lr"]) / base for group in optimizer.param_groups]
    rates: list[float] = []
    losses: list[float] = []
    smoothed: list[float] = []
    average = 0.0
    with restore_state_after(model, optimizer):
        together = zip(*[_endless(batches)] * accumulate, strict=False)
        for rate, batch in zip(np.geomspace(low, high, steps).tolist(), together, strict=False):
            _set_rates(optimizer, [rate * share for share in shares])
            optimizer.zero_grad()
            value = _accumulate(loss_of_batch, batch)
            if not math.isfinite(value):
                break
            average = smoothing * average + (1 - smoothing) * value
            rates.append(rate)
            losses.append(value)
            smoothed.append(average / (1 - smoothing ** len(rates)))
            lowest = min(smoothed)
            if smoothed[-1] > lowest + (diverge - 1) * abs(lowest):  # holds for losses below zero, too
                break
            optimizer.step()
    return LRFinding(tuple(rates), tuple(losses), tuple(smoothed), base)


def _accumulate(loss_of_batch: Callable[[Any], Tensor], batches: Sequence[Any]) -> float:
    """The mean loss of some batches; its gradients are those of the parameters then."""
    total = 0.0
    for batch in batches:
        loss = loss_of_batch(batch) / len(batches)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        total += float(loss.detach())
    return total


@contextmanager
def restore_state_after(model: nn.Module, optimizer: Optimizer) -> Iterator[None]:
    """Put back what happens inside to the model, the optimizer and the random numbers, whatever is raised.

    That is every parameter and buffer, `grad` and `requires_grad`, the modes, the optimizer's state and groups, and
    the generators of Python, NumPy, and torch on the CPU and on the model's GPUs. All of it is bit-identical after.
    """
    of_optimizer = (parameter for group in optimizer.param_groups for parameter in group["params"])
    parameters = list(dict.fromkeys([*model.parameters(), *of_optimizer]))
    with _randomness_kept(parameters), _optimizer_kept(optimizer), _model_kept(model, parameters):
        yield


@contextmanager
def _model_kept(model: nn.Module, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    weights = [(p, p.detach().clone(), p.grad, p.requires_grad) for p in parameters]
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    modes = [(module, module.training) for module in model.modules()]
    for parameter in parameters:
        parameter.grad = None  # else the first backward would add to what is kept
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value, grad, requires_grad in weights:
                parameter.copy_(value).requires_grad_(requires_grad)
                parameter.grad = grad
            for module, name, buffer, value in buffers:
                module._buffers[name] = buffer.copy_(value)
        for module, training in modes:
            module.training = training


@contextmanager
def _optimizer_kept(optimizer: Optimizer) -> Iterator[None]:
    """The steps inside work on copies; `load_state_dict` would cast the state and replace the groups."""
    state, groups = dict(optimizer.state), [dict(group) for group in optimizer.param_groups]
    optimizer.state.update({parameter: deepcopy(value) for parameter, value in state.items()})
    for group in optimizer.param_groups:
        group.update({key: deepcopy(value) for key, value in group.items() if key != "params"})
    try:
        yield
    finally:
        optimizer.state.clear()
        optimizer.state.update(state)
        for group, kept in zip(optimizer.param_groups, groups, strict=True):
            group.clear()
            group.update(kept)


@contextmanager
def _randomness_kept(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    of_python, of_numpy = random.getstate(), np.random.get_state()
    gpus = sorted({parameter.device.index for parameter in parameters if parameter.is_cuda})
    try:
        with torch.random.fork_rng(gpus, device_type="cuda"):
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)


def _check_search(low: float, high: float, steps: int, smoothing: float, diverge: float) -> None:
    if not 0 < low < high < math.inf:
        raise ValueError(f"cannot search learning rates from {low} to {high}; expected 0 < low < high.")
    if steps < FEWEST:
        raise ValueError(f"a search of {steps} steps says nothing; take {FEWEST} or more, such as 100.")
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing is {smoothing}, expected 0 (none) or more, and below 1, such as 0.9.")
    if not diverge > 1:
        raise ValueError(f"diverge is {diverge}, expected more than 1 times the lowest loss, such as 4.")


def _highest_rate(optimizer: Optimizer) -> float:
    """The highest learning rate among the groups that train."""
    training = [g["lr"] for g in optimizer.param_groups if any(p.requires_grad for p in g["params"])]
    highest = float(max(training, default=0.0))
    if not highest > 0:
        raise ValueError(
            f"no group of the optimizer trains at a rate above 0: {len(training)} of {len(optimizer.param_groups)} "
            f"have parameters that need a gradient. Unfreeze some, and give them a learning rate."
        )
    return highest


def _set_rates(optimizer: Optimizer, rates: Sequence[float]) -> None:
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        was = group["lr"]  # a tensor in optimizers that run inside a CUDA graph
        group["lr"] = torch.full_like(was, rate) if isinstance(was, Tensor) else rate


def _endless(batches: Iterable[Any]) -> Iterator[Any]:
    """The batches, from the beginning again whenever they end; nothing where there are none."""
    while True:
        empty = True
        for batch in batches:
            empty = False
            yield batch
        if empty:
            return


def _middle_of_longest_fall(curve: Sequence[float]) -> int:
    """Index of the middle member of the longest decreasing subsequence."""
    falls: list[list[int]] = []  # the longest that ends at each index
    for end, value in enumerate(curve):
        before = max((fall for fall in falls if curve[fall[-1]] > value), key=len, default=[])
        falls.append([*before, end])
    longest = max(falls, key=len)
    return longest[len(longest) // 2]
