"""Boxes on pixels that count for nothing, such as those of a crowd."""

from torch import Tensor
from torch.nn import functional as F


def lie_on(boxes: Tensor, pixels: Tensor) -> Tensor:
    """Return which boxes have more than half of their area inside of the image on some pixels, bool (N,).

    Args:
        boxes: left, top, right, bottom (N, 4), pixels; may reach beyond the image.
        pixels: bool (H, W).
    """
    height, width = pixels.shape
    sums = F.pad(pixels.int().cumsum(0).cumsum(1), (1, 0, 1, 0))  # of all pixels above and to the left
    inside = boxes.round().clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]))
    left, top, right, bottom = inside.long().unbind(-1)
    marked = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    return 2 * marked > (right - left) * (bottom - top)
