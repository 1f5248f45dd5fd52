"""Learning-rate range test: training steps at rising learning rates show where the loss falls.

Lightning's `Tuner.lr_find` does the same for one learning rate. This search keeps the ratios between the optimizer
groups and restores model, optimizer and random state bit for bit.

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

MIN_POINTS = 10  # points below which a curve is not evaluated


@dataclass(frozen=True)
class LRFinding:
    """The result of a range test.

    Attributes:
        rates: learning rates of the group with the highest one, ascending.
        losses: loss at each of them, before the optimizer step.
        smoothed: running mean of the losses.
        base: learning rate of this group before the test; `suggestion / base` is the factor for all groups.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    base: float

    @property
    def suggestion(self) -> float:
        """The learning rate of `valley`, which depends on the whole descent; the other rules depend on single points.

        Raises:
            ValueError: as in `suggestions`.
        """
        return self.suggestions["valley"]

    @property
    def suggestions(self) -> dict[str, float]:
        """Learning rates suggested by three rules, from the smoothed curve without its first tenth.

        `valley` is the middle of the longest decreasing subsequence (as in fastai), `steepest` is where the loss falls
        most per decade, and `minimum` is a tenth of the learning rate with the lowest loss.

        Raises:
            ValueError: there are fewer than 10 points, or the loss does not fall by more than its noise.
        """
        self._check()
        skipped = len(self.rates) // 10  # the running mean covers only few batches there
        rates, curve = np.array(self.rates[skipped:]), np.array(self.smoothed[skipped:])
        return {
            "valley": float(rates[_middle_of_longest_descent(curve.tolist())]),
            "steepest": float(rates[np.gradient(curve, np.log(rates)).argmin()]),
            "minimum": float(rates[curve.argmin()]) / 10,
        }

    def _check(self) -> None:
        if len(self.rates) < MIN_POINTS:
            raise ValueError(
                f"the learning-rate search has only {len(self.rates)} points before the loss diverged or the batches "
                f"ran out; it needs {MIN_POINTS}. "
                f"Set optimizer.lr to a number, or use more images, or smaller batches."
            )
        curve = self.smoothed[len(self.rates) // 10 :]
        lowest = int(np.argmin(curve))
        fall = max(curve[: lowest + 1]) - curve[lowest]
        noise = float(np.median(np.abs(np.diff(self.losses))))  # the median ignores the descent and the divergence
        if fall <= 2 * noise:
            raise ValueError(
                f"the loss does not fall at any learning rate from {self.rates[0]:.1e} to {self.rates[-1]:.1e}: it "
                f"falls by at most {fall:.2g}, and consecutive batches differ by {noise:.2g}. Set "
                f"optimizer.lr to a number, use larger batches, or check that masks fit their images (finetune audit)."
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
    """Train for some steps at exponentially rising learning rates, then restore model and optimizer.

    The learning rates of all groups rise by the same factor, which keeps the ratios between them. The search stops
    early if the smoothed loss exceeds `diverge` times its lowest value, or if a loss is not finite.

    Args:
        model: model in the modes in which it trains.
        loss_of_batch: function that returns the scalar loss of the model on a batch, with its autograd graph.
        optimizer: optimizer of the model's parameters; its groups keep the ratios of their learning rates.
        batches: batches, repeated if they run out; an iterator ends the search instead, and its position is not
            restored.
        low: first learning rate of the group with the highest one among the groups that train.
        high: last learning rate of that group.
        steps: optimizer steps.
        smoothing: weight of the past in the bias-corrected running mean of the losses. The usual 0.98 would average
            over 50 steps, half of the search, and lag far behind the loss.
        diverge: the search stops above this multiple of the lowest smoothed loss.
        accumulate: batches per optimizer step, as in the training; the loss of a step is their mean.

    Raises:
        ValueError: an argument is out of range, or no group of the optimizer trains.
    """
    _check_search(low, high, steps, smoothing, diverge)
    base = _highest_rate(optimizer)
    ratios = [float(group["lr"]) / base for group in optimizer.param_groups]
    rates: list[float] = []
    losses: list[float] = []
    smoothed: list[float] = []
    average = 0.0
    with restore_state_after(model, optimizer):
        batches_per_step = zip(*[_endless(batches)] * accumulate, strict=False)
        for rate, step_batches in zip(np.geomspace(low, high, steps).tolist(), batches_per_step, strict=False):
            _set_rates(optimizer, [rate * ratio for ratio in ratios])
            optimizer.zero_grad()
            value = _accumulate(loss_of_batch, step_batches)
            if not math.isfinite(value):
                break
            average = smoothing * average + (1 - smoothing) * value
            rates.append(rate)
            losses.append(value)
            smoothed.append(average / (1 - smoothing ** len(rates)))
            lowest = min(smoothed)
            if smoothed[-1] > lowest + (diverge - 1) * abs(lowest):  # also correct for negative losses
                break
            optimizer.step()
    return LRFinding(tuple(rates), tuple(losses), tuple(smoothed), base)


def _accumulate(loss_of_batch: Callable[[Any], Tensor], batches: Sequence[Any]) -> float:
    """Accumulate the gradients of the mean loss of some batches and return that loss."""
    total = 0.0
    for batch in batches:
        loss = loss_of_batch(batch) / len(batches)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        total += float(loss.detach())
    return total


@contextmanager
def restore_state_after(model: nn.Module, optimizer: Optimizer) -> Iterator[None]:
    """Restore the model, the optimizer and the random state when the context ends, even after an exception.

    All of these are bit-identical afterwards: every parameter and buffer, `grad`, `requires_grad`, the train and eval
    modes, the optimizer's state and groups, and the generators of Python, NumPy, and torch on the CPU and the model's
    GPUs.
    """
    in_optimizer = (parameter for group in optimizer.param_groups for parameter in group["params"])
    parameters = list(dict.fromkeys([*model.parameters(), *in_optimizer]))
    with _restore_random_state(parameters), _restore_optimizer(optimizer), _restore_model(model, parameters):
        yield


@contextmanager
def _restore_model(model: nn.Module, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    weights = [(p, p.detach().clone(), p.grad, p.requires_grad) for p in parameters]
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    modes = [(module, module.training) for module in model.modules()]
    for parameter in parameters:
        parameter.grad = None  # or the first backward pass would add to the gradients to restore
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
def _restore_optimizer(optimizer: Optimizer) -> Iterator[None]:
    # steps inside work on copies: `load_state_dict` would cast the state and replace the groups
    state, groups = dict(optimizer.state), [dict(group) for group in optimizer.param_groups]
    optimizer.state.update({parameter: deepcopy(value) for parameter, value in state.items()})
    for group in optimizer.param_groups:
        group.update({key: deepcopy(value) for key, value in group.items() if key != "params"})
    try:
        yield
    finally:
        optimizer.state.clear()
        optimizer.state.update(state)
        for group, original in zip(optimizer.param_groups, groups, strict=True):
            group.clear()
            group.update(original)


@contextmanager
def _restore_random_state(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    python_state, numpy_state = random.getstate(), np.random.get_state()
    gpus = sorted({parameter.device.index for parameter in parameters if parameter.is_cuda})
    try:
        with torch.random.fork_rng(gpus, device_type="cuda"):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def _check_search(low: float, high: float, steps: int, smoothing: float, diverge: float) -> None:
    if not 0 < low < high < math.inf:
        raise ValueError(f"cannot search learning rates from {low} to {high}; expected 0 < low < high.")
    if steps < MIN_POINTS:
        raise ValueError(f"a search of {steps} steps is too short; use {MIN_POINTS} or more, such as 100.")
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing is {smoothing}, expected a number from 0 (none) to below 1, such as 0.9.")
    if not diverge > 1:
        raise ValueError(f"diverge is {diverge}, expected a multiple of the lowest loss above 1, such as 4.")


def _highest_rate(optimizer: Optimizer) -> float:
    """Return the highest learning rate among the groups that train."""
    training = [g["lr"] for g in optimizer.param_groups if any(p.requires_grad for p in g["params"])]
    highest = float(max(training, default=0.0))
    if not highest > 0:
        raise ValueError(
            f"no group of the optimizer trains with a learning rate above 0: {len(training)} of "
            f"{len(optimizer.param_groups)} have parameters that require gradients. Unfreeze some parameters and give "
            f"them a learning rate."
        )
    return highest


def _set_rates(optimizer: Optimizer, rates: Sequence[float]) -> None:
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        current = group["lr"]  # a tensor in optimizers that run inside a CUDA graph
        group["lr"] = torch.full_like(current, rate) if isinstance(current, Tensor) else rate


def _endless(batches: Iterable[Any]) -> Iterator[Any]:
    """Yield the batches repeatedly, from the beginning whenever they end; stop if there are none."""
    while True:
        empty = True
        for batch in batches:
            empty = False
            yield batch
        if empty:
            return


def _middle_of_longest_descent(curve: Sequence[float]) -> int:
    """Return the index of the middle member of the longest decreasing subsequence."""
    descents: list[list[int]] = []  # the longest one that ends at each index
    for end, value in enumerate(curve):
        previous = max((descent for descent in descents if curve[descent[-1]] > value), key=len, default=[])
        descents.append([*previous, end])
    longest = max(descents, key=len)
    return longest[len(longest) // 2]
