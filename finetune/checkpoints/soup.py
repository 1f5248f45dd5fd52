"""Mean weights of several checkpoints."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def mean_weights(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of state dicts of one model; tensors that are not floating-point are those of the first.

    Source: Wortsman et al. 2022, https://arxiv.org/abs/2203.05482
    """
    return {
        name: torch.stack([state[name].double() for state in states]).mean(0).to(first.dtype)
        if first.is_floating_point()
        else first
        for name, first in states[0].items()
    }
