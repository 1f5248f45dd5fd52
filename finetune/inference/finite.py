"""Outputs that are NaN or infinite, which must not become predictions or scores."""

import torch
from torch import Tensor

DIVERGED = "the model's outputs are NaN or infinite. Its training diverged: train again with a lower optimizer.lr."


class NonFiniteOutputError(ValueError):
    """A model's outputs hold NaN or infinite values, so they say nothing about the image."""


def count_non_finite(logits: Tensor) -> Tensor:
    """Return the number of images of which a logit is NaN or infinite, int64, of logits (B, ...)."""
    # a sum takes a fifth of the time of looking at each; it overflows only where a training diverged, too
    precision = torch.promote_types(logits.dtype, torch.float32)
    sums = logits.sum(dim=tuple(range(1, logits.ndim)), dtype=precision)
    return (~sums.isfinite()).sum()
