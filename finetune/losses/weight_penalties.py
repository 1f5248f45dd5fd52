"""Weight penalties to add to a loss: L1 for sparse weights, L2-SP for weights near the pretrained ones."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor


def l1(parameters: Iterable[Tensor]) -> Tensor:
    """Return the sum of the absolute values, a scalar in float32; 0 without parameters."""
    sums = [p.float().abs().sum() for p in parameters]
    return torch.stack(sums).sum() if sums else torch.zeros(())


def l2_sp(parameters: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> Tensor:
    """Return half the squared distance from the pretrained values, a scalar in float32; 0 without parameters.

    Args:
        parameters: parameters by name.
        start: pretrained values of each of these parameters, by name.

    Source: Li et al. 2018, https://arxiv.org/abs/1802.01483
    """
    if not parameters:
        return torch.zeros(())
    distances = [(p.float() - start[name].float()).square().sum() for name, p in parameters.items()]
    return torch.stack(distances).sum() / 2
