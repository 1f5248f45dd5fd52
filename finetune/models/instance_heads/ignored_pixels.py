"""Boxes on pixels that count for nothing, such as those of a crowd."""

from torch import Tensor
from torch.nn import functional as F


def lie_on(boxes: Tensor, pixels: Tensor) -> Tensor:
    """Return which boxes have more than half of the area that is inside the image on these pixels, bool (N,).

    Args:
        boxes: left, top, right, bottom (N, 4), pixels; may reach beyond the image.
        pixels: bool (H, W).
    """
    return covered_share(pixels, boxes) > 0.5


def covered_share(mask: Tensor, boxes: Tensor) -> Tensor:
    """Return the share of each box (N, 4) inside the image that a mask (H, W), bool, covers; 0 for boxes outside."""
    sums = F.pad(mask.int().cumsum(0).cumsum(1), (1, 0, 1, 0))  # of all pixels above and to the left
    left, right = boxes[:, 0::2].round().long().clamp(0, mask.shape[1]).unbind(-1)
    top, bottom = boxes[:, 1::2].round().long().clamp(0, mask.shape[0]).unbind(-1)
    covered = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    return covered / ((right - left) * (bottom - top)).clamp(min=1)
