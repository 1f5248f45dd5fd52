"""Gradient checkpointing: activations are recomputed in the backward pass instead of being stored."""

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def enable_grad_checkpointing(model: Any, name: str) -> None:
    """Make a timm model recompute its activations.

    Args:
        model: the timm model, changed in place.
        name: name of the model, for messages.

    Raises:
        ValueError: if the model does not support it.
    """
    try:
        model.set_grad_checkpointing(True)
    except (AssertionError, AttributeError) as error:
        raise ValueError(
            f"backbone '{name}' does not support gradient checkpointing. Set backbone.grad_checkpointing=false."
        ) from error


def update_bn_stats_once(model: nn.Module) -> None:
    """Make batch norms update their running statistics in the forward pass only, not when it is recomputed.

    torch's `checkpoint` has a `context_fn` for this purpose, but timm has no argument to pass it. Calling this function
    again adds the hooks to new batch norms only.
    """
    for norm in model.modules():
        if isinstance(norm, _BatchNorm) and not hasattr(norm, "held_statistics"):
            norm.held_statistics = None  # type: ignore[assignment]  # torch types attributes as Tensor | Module
            norm.register_forward_pre_hook(_hold_statistics)
            # torch ends a recomputation by an exception, which may leave the norm's forward half-way
            norm.register_forward_hook(_release_statistics, always_call=True)


def _hold_statistics(norm: Any, inputs: Any) -> None:
    """In a backward pass, let the norm normalize by batch statistics without updating the running ones."""
    # compiled graphs contain the recomputation and update the statistics once
    if torch.compiler.is_compiling() or torch._C._current_graph_task_id() == -1:  # -1: no backward pass is running
        return
    count = norm.num_batches_tracked
    norm.held_statistics = (norm.momentum, count)
    norm.momentum = 0.0
    norm.num_batches_tracked = None if count is None else torch.zeros_like(count)


def _release_statistics(norm: Any, inputs: Any, output: Any) -> None:
    if norm.held_statistics is not None:
        norm.momentum, norm.num_batches_tracked = norm.held_statistics
        norm.held_statistics = None
