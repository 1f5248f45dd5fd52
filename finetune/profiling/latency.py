"""The distribution of the time that a prediction or a training step takes, and its memory."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import quantiles

import torch

from finetune.profiling.cost import measure_memory, seconds_of

FEWEST = 5  # calls, however long they take


@dataclass(frozen=True)
class Latency:
    """The measured calls of a function.

    Attributes:
        seconds: duration of each call, sorted.
        growth: bytes that a call needs in addition to those in use before; None if the system does not report it.
    """

    seconds: Sequence[float]
    growth: int | None

    @property
    def median(self) -> float:
        """Median duration, in seconds."""
        return self.quantile(0.5)

    def quantile(self, share: float) -> float:
        """Return the duration that a share of the calls does not exceed, in seconds.

        Args:
            share: a multiple of 0.05, above 0 and below 1.

        >>> Latency([1.0, 2.0, 3.0], None).quantile(0.5)
        2.0
        """
        return quantiles(self.seconds, n=20, method="inclusive")[round(share * 20) - 1]


def measure_latency(call: Callable[[], object], device: torch.device, seconds: float) -> Latency:
    """Call a function again and again.

    The first two calls are not timed: kernels are chosen and compiled in them. The memory is that of the second.

    Args:
        call: function that computes on `device`.
        device: of the function.
        seconds: duration of all calls; five are made in any case.
    """
    call()
    growth = measure_memory(call, device)
    taken, until = list[float](), time.perf_counter() + seconds
    while len(taken) < FEWEST or time.perf_counter() < until:
        taken.append(seconds_of(call, device))
    return Latency(sorted(taken), growth)
