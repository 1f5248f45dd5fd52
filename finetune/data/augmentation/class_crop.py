"""Find a rare class in a target, and place a crop around a pixel of it."""

import torch
from torch import Tensor


def rare_class(target: Tensor, draw: float, ignore_index: int = 255, leave_out_largest: bool = False) -> Tensor | None:
    """Return the pixels of a random class of a target, bool (H, W); None if no pixel has a class.

    The class is one of those in the target, with a probability that is inversely proportional to the number of its
    pixels.

    Args:
        target: uint8 (H, W), or (K, H, W) of 0, 1 and `ignore_index`.
        draw: uniform number from 0 to 1.
        ignore_index: label of the pixels without a class.
        leave_out_largest: whether the class with most pixels is not drawn.
    """
    counts = class_counts(target, ignore_index)
    if leave_out_largest:
        counts[counts.argmax()] = 0
    present = counts.nonzero().view(-1)
    if not len(present):
        return None
    cumulative = (1 / counts[present].double()).cumsum(0)
    index = int(torch.searchsorted(cumulative, draw * float(cumulative[-1]), right=True))
    label = present[min(index, len(present) - 1)]
    return target[label] == 1 if target.dim() == 3 else target == label


def class_counts(target: Tensor, ignore_index: int = 255) -> Tensor:
    """Return the number of pixels of each class: int64 (256,) for a target (H, W), (K,) for (K, H, W)."""
    if target.dim() == 3:
        return (target == 1).sum((1, 2))
    counts = torch.bincount(target.reshape(-1), minlength=256)
    counts[ignore_index] = 0
    return counts


def random_pixel(where: Tensor, draw: float) -> tuple[int, int]:
    """Return y and x of one of the true pixels of (H, W), each with the same probability, for a draw from 0 to 1."""
    pixels = where.reshape(-1).nonzero().view(-1)
    return divmod(int(pixels[min(int(draw * len(pixels)), len(pixels) - 1)]), where.shape[-1])


def position_around(pixel: int, source: int, scale: float, crop: int, draw: float) -> float | None:
    """Return the position of a crop on one axis that shows a pixel somewhere in its middle half.

    Args:
        pixel: index in the source.
        source: length of the source, pixels.
        scale: of the source.
        crop: length of the crop, pixels.
        draw: where in the middle half, 0 to 1.

    Returns:
        The position as in `CropTransform`; None if the crop shows the whole axis anyway.
    """
    room = max(1, round(source * scale)) - crop
    if room <= 0:
        return None
    start = (pixel + 0.5) * scale - crop * (0.25 + 0.5 * draw)
    return min(1.0, max(0.0, start / room))
