"""Keeps a description of a model from filling the memory before anybody sees that no weights fit it."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

MAKERS = {torch.empty, torch.zeros, torch.ones, torch.full, torch.eye, torch.rand, torch.randn, torch.arange}
MAKERS |= {torch.linspace}
SMALLEST = 2**13  # what any tensor counts at least, as it and the module around it take memory and time too


class SizeLimit(TorchFunctionMode):
    """A context in which tensors of so many numbers in all are made; the one that would be too many is not.

    Args:
        numbers: a model has its parameters, its buffers, and a few that it is computed from.

    >>> with SizeLimit(1_000_000):
    ...     _ = torch.nn.Linear(500, 500)
    ...     _ = torch.nn.Linear(50_000, 50_000)
    Traceback (most recent call last):
    ValueError: it has a tensor of 2,500,000,000 numbers, which makes more than 1,000,000 in all
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
        """Count before making."""
        options = kwargs or {}
        if func in MAKERS:
            self._count(func, args, options)
        return func(*args, **options)

    def _count(self, func: Callable[..., Any], args: tuple[Any, ...], options: Mapping[str, Any]) -> None:
        described = {key: value for key, value in options.items() if key not in ("device", "generator", "pin_memory")}
        numbers = func(*args, **described, device="meta").numel()
        self.left -= max(numbers, SMALLEST)
        if self.left < 0:
            raise ValueError(f"it has a tensor of {numbers:,} numbers, which makes more than {self.limit:,} in all")
