"""Calibration: whether a model is right as often as its probabilities say."""

import torch
from torch import Tensor

from finetune.metrics.measurement import ImageBatch

BINS = 15
EVERY = 4  # pixels, of masks
RESOLUTION = 2**24  # levels of a confidence; integers add up to the same sum in any order, on any number of ranks


class Confidences:
    """Counts how often the model is right at each confidence; see `Measurement`.

    Where a pixel has one class, its confidence is the probability of the predicted one. Where it may have several, the
    probability of each class is a confidence, which is right where the pixel has the class, and `spread_pixels` count.

    Args:
        groups: G, 1 for one class per pixel, otherwise the number of classes.
        ignore_index: label of the pixels to leave out.
    """

    def __init__(self, groups: int, ignore_index: int) -> None:
        self._bins = torch.zeros(groups, BINS, 3, dtype=torch.int64)
        self._ignore_index = ignore_index

    def update(self, batch: ImageBatch) -> None:
        """Count the pixels of a batch."""
        if batch.target.ndim == 4:
            confidence, target = spread_pixels(batch)
            right = target == 1
        else:
            target, confidence = batch.target[:, None], batch.probabilities.amax(1, keepdim=True)
            right = batch.prediction[:, None] == target
        counts = confidence_counts(confidence, right, target.int() != self._ignore_index)  # as uint8, -100 == 156
        self._bins = self._bins.to(counts.device) + counts

    def sums(self) -> dict[str, Tensor]:
        """Return `bins` (G, BINS, 3), as in `confidence_counts`."""
        return {"bins": self._bins}


def spread_pixels(batch: ImageBatch) -> tuple[Tensor, Tensor]:
    """Return probabilities and target (B, K, h, w) of every fourth pixel in both directions.

    Masks of many classes have so many pixels that to count them all takes a good part of the model's time.
    """
    return batch.probabilities[..., ::EVERY, ::EVERY], batch.target[..., ::EVERY, ::EVERY]


def confidence_counts(confidence: Tensor, right: Tensor, counted: Tensor) -> Tensor:
    """Return the pixels, the right ones and the sum of the confidences in equal bins.

    Args:
        confidence: (B, G, H, W), 0..1.
        right: of the same shape, bool.
        counted: which pixels count, of the same shape, bool.

    Returns:
        (G, BINS, 3), int64; the sum is in steps of 1 / RESOLUTION.
    """
    levels = (confidence * RESOLUTION).long().clamp_(0, RESOLUTION)  # NaN too, which has a message of its own
    bins = (levels * BINS // RESOLUTION).clamp_(max=BINS - 1)
    cells = flat_cells(bins, counted, BINS)
    empty = torch.zeros(confidence.shape[1] * BINS + 1, dtype=torch.int64, device=cells.device)
    values = (torch.ones_like(levels), right.long(), levels)
    sums = [empty.index_add(0, cells, each.flatten())[:-1] for each in values]  # exact and deterministic, also on a GPU
    return torch.stack(sums, dim=-1).view(-1, BINS, 3)


def flat_cells(cells: Tensor, counted: Tensor, size: int) -> Tensor:
    """Return where each pixel counts in a flat table of G * size cells; in the one after it if it does not.

    Args:
        cells: (B, G, H, W), int64, 0..size - 1.
        counted: which pixels count, of the same shape, bool.
        size: cells of each group.
    """
    groups = cells.shape[1]
    first = torch.arange(groups, device=cells.device).view(1, -1, 1, 1) * size
    return torch.where(counted, cells + first, groups * size).flatten()


def calibration_error(bins: Tensor) -> Tensor:
    """Return the expected calibration error (...), 0..1, of counts (..., BINS, 3); NaN where no pixel counts.

    It is the mean difference between the confidence and the share of right pixels, over the pixels of all bins.

    Source: Guo et al. 2017, https://arxiv.org/abs/1706.04599

    >>> bins = torch.zeros(BINS, 3, dtype=torch.int64)
    >>> bins[12] = torch.tensor([4, 3, int(4 * 0.85 * RESOLUTION)])  # 0.85 sure, and right in 3 of 4
    >>> round(float(calibration_error(bins)), 4)
    0.1
    """
    pixels, right, confidence = bins.double().unbind(-1)
    return (right - confidence / RESOLUTION).abs().sum(-1) / pixels.sum(-1)


def reliability(bins: Tensor) -> dict[str, Tensor]:
    """Return the mean `confidence`, the `accuracy` and the `pixel_share` of each bin (BINS,) of counts (G, BINS, 3).

    All groups are taken together. A bin without pixels has NaN, and the share 0.
    """
    pixels, right, confidence = bins.double().sum(0).unbind(-1)
    share = pixels / pixels.sum().clamp(min=1)
    return {"confidence": confidence / RESOLUTION / pixels, "accuracy": right / pixels, "pixel_share": share}
