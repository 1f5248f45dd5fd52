"""The mean loss of an epoch."""

import torch
from torch import Tensor

from finetune.metrics.widest_float import widest_float


class LossMean:
    """A mean that is kept as a sum and a count, in the widest type of the device, until it is needed.

    In float64, losses in float32 add up without rounding, and so to the same sum in any order, as long as the sum is
    below 5e8 times the smallest loss that is not 0.
    """

    def __init__(self, total: Tensor | float = 0.0, count: Tensor | float = 0.0) -> None:
        self.sum = total
        self.count = count

    def add(self, loss: Tensor, count: Tensor | int) -> None:
        """Add the mean loss of `count` images; nothing waits for the device."""
        self.sum = self.sum + loss.to(widest_float(loss.device)) * count
        self.count = self.count + count

    def state(self, device: torch.device) -> Tensor:
        """Return sum and count (2,), in the widest type of a device."""
        dtype = widest_float(device)
        return torch.stack([torch.as_tensor(v, dtype=dtype, device=device) for v in (self.sum, self.count)])
