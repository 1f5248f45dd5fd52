"""Outputs that are NaN or infinite, which must not become predictions or scores."""

from torch import Tensor


class NonFiniteOutputError(ValueError):
    """A model's outputs hold NaN or infinite values, so they say nothing about the image."""


def count_non_finite(logits: Tensor) -> Tensor:
    """Return the number of images of which a logit is NaN or infinite, int64, of logits (B, ...)."""
    return (~logits.isfinite()).flatten(1).any(dim=1).sum()
