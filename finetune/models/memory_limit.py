"""Limits the memory that a model takes while it is built from an untrusted config."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

FACTORIES = {torch.empty, torch.zeros, torch.ones, torch.full, torch.eye, torch.rand, torch.randn, torch.arange}
FACTORIES |= {torch.linspace}
LEAST_PER_TENSOR = 2**13  # numbers that every tensor counts as, since it and its module take memory and time too


class SizeLimit(TorchFunctionMode):
    """A context that limits the numbers in all tensors created in it; a tensor beyond the limit is not created.

    Args:
        numbers: the limit. A model needs its parameters, its buffers, and some intermediate tensors.

    Raises:
        ValueError: if a tensor would exceed the limit.

    >>> with SizeLimit(1_000_000):
    ...     _ = torch.nn.Linear(500, 500)
    ...     _ = torch.nn.Linear(50_000, 50_000)
    Traceback (most recent call last):
    ValueError: a tensor of 2,500,000,000 numbers, which makes more than the limit of 1,000,000
    """

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.limit = self.left = numbers

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Count the numbers of a tensor before it is created."""
        options = kwargs or {}
        if func in FACTORIES:
            self._count(func, args, options)
        return func(*args, **options)

    def _count(self, func: Callable[..., Any], args: tuple[Any, ...], options: Mapping[str, Any]) -> None:
        on_meta = {key: value for key, value in options.items() if key not in ("device", "generator", "pin_memory")}
        numbers = func(*args, **on_meta, device="meta").numel()
        self.left -= max(numbers, LEAST_PER_TENSOR)
        if self.left < 0:
            raise ValueError(f"a tensor of {numbers:,} numbers, which makes more than the limit of {self.limit:,}")
