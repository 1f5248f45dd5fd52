"""Temperature scaling: one number, after which about 80 % of the pixels predicted with 80 % are right."""

import math

from torch import Tensor

LIMITS = (0.05, 20.0)
HALVINGS = 30  # of the limits, on a log scale


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature with which `(logits / temperature).softmax(1)` has the lowest negative log-likelihood.

    That is convex in 1 / temperature; where its slope changes sign is found by halving. One of `LIMITS` is returned if
    the likelihood rises up to there, as for a model that is always right.

    Args:
        logits: (N, K), floating point.
        labels: (N,), int64, 0..K - 1.

    Source: Guo et al. 2017, https://arxiv.org/abs/1706.04599
    """
    margins = logits.double() - logits.double().gather(1, labels[:, None])
    low, high = LIMITS
    for _ in range(HALVINGS):
        middle = math.sqrt(low * high)
        slope = float(((margins / middle).softmax(1) * margins).sum(1).mean())  # over 1 / temperature
        low, high = (middle, high) if slope > 0 else (low, middle)
    return math.sqrt(low * high)
