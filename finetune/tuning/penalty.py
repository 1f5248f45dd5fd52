"""Penalties on weights, to be added to a loss: sparse weights (L1), and weights that stay near the pretrained ones."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor


def l1(parameters: Iterable[Tensor]) -> Tensor:
    """Sum of the absolute values, a scalar in float32; 0 for no parameters."""
    sums = [p.float().abs().sum() for p in parameters]
    return torch.stack(sums).sum() if sums else torch.zeros(())


def l2_sp(parameters: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> Tensor:
    """Half the squared distance from where the parameters started, a scalar in float32; 0 for no parameters.

    Args:
        parameters: by name.
        start: their values in the pretrained network, for each of these names.

    Source: Li et al. 2018, https://arxiv.org/abs/1802.01483
    """
    if not parameters:
        return torch.zeros(())
    moved = [(p.float() - start[name].float()).square().sum() for name, p in parameters.items()]
    return torch.stack(moved).sum() / 2
