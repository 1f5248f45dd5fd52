"""Activations that are computed anew in the backward pass, where they are needed, instead of being kept."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.utils.checkpoint
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def enable_grad_checkpointing(model: Any, name: str) -> None:
    """Ask a timm model to compute its activations anew.

    Args:
        model: is changed.
        name: of the model, for messages.

    Raises:
        ValueError: it cannot.
    """
    try:
        model.set_grad_checkpointing(True)
    except (AssertionError, AttributeError) as error:
        raise ValueError(
            f"backbone '{name}' cannot compute its activations anew. Set backbone.grad_checkpointing=false."
        ) from error


@contextmanager
def update_bn_stats_once(model: nn.Module) -> Iterator[None]:
    """Batch norms take up the statistics of what is computed in here, and not again when it is computed anew.

    timm hands torch no context for that, so that torch's own function is another one for as long as this lasts.
    """
    if torch.compiler.is_compiling():  # which takes up statistics once by itself
        yield
        return
    original = torch.utils.checkpoint.checkpoint

    def checkpoint(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        if options.get("use_reentrant") is False:
            options["context_fn"] = lambda: (nullcontext(), _seen_before(model))
        return original(function, *args, **options)

    torch.utils.checkpoint.checkpoint = checkpoint  # type: ignore[assignment]  # of the same use
    try:
        yield
    finally:
        torch.utils.checkpoint.checkpoint = original


@contextmanager
def _seen_before(model: nn.Module) -> Iterator[None]:
    """Batch norms normalize by what they see and leave their running statistics and counts as they are."""
    norms = [norm for norm in model.modules() if isinstance(norm, _BatchNorm)]
    before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm, _, count in before:
        norm.momentum = 0.0
        norm.num_batches_tracked = None if count is None else torch.zeros_like(count)  # which nobody reads
    try:
        yield
    finally:
        for norm, momentum, count in before:
            norm.momentum, norm.num_batches_tracked = momentum, count
