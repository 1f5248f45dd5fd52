"""The floating-point type for sums that must not depend on their order."""

import torch


def widest_float(device: torch.device) -> torch.dtype:
    """Return the type with the most digits that a device has: float32 on Apple's GPUs, float64 on all others.

    >>> widest_float(torch.device("cpu")), widest_float(torch.device("mps"))
    (torch.float64, torch.float32)
    """
    return torch.float32 if device.type == "mps" else torch.float64
