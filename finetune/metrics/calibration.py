"""Calibration: whether a model is right as often as its probabilities say."""

import torch
from torch import Tensor

from finetune.metrics.measurement import ImageBatch

BINS = 15
CELLS = 300  # of a probability, which make the bins and the thresholds
EVERY = 4  # pixels of masks in both directions: to count all takes a good part of the model's time
RESOLUTION = 2**24  # levels of a confidence; integers add up to the same sum in any order, on any number of ranks


class Confidences:
    """Counts how often the model is right at each confidence; see `Measurement`.

    The confidence of a pixel is the probability of its predicted class, and of the second one if there are two. Where a
    pixel may have several classes, the probability of each is a confidence, and every fourth pixel in
    both directions is counted.

    Args:
        groups: G, 1 for one class per pixel, otherwise the number of classes.
        ignore_index: label of the pixels to leave out.
    """

    def __init__(self, groups: int, ignore_index: int) -> None:
        self._counts = torch.zeros(groups, CELLS, 3, dtype=torch.int64)
        self._ignore_index = ignore_index

    def update(self, batch: ImageBatch) -> None:
        """Count the pixels of a batch."""
        target, confidence = batch.target[:, None], batch.probabilities
        if batch.target.ndim == 4:
            target, confidence = (each[..., ::EVERY, ::EVERY] for each in (batch.target, confidence))
            right = target == 1
        elif confidence.shape[1] == 2:
            confidence, right = confidence[:, 1:], target == 1
        else:
            predicted = batch.prediction[:, None]  # not always the most probable class, after steps that clean it
            confidence, right = confidence.gather(1, predicted.long()), target == predicted
        counts = confidence_counts(confidence, right, target.int() != self._ignore_index)  # as uint8, -100 == 156
        self._counts = self._counts.to(counts.device) + counts

    def sums(self) -> dict[str, Tensor]:
        """Return `counts` (G, CELLS, 3), as in `confidence_counts`."""
        return {"counts": self._counts}


def confidence_counts(confidence: Tensor, right: Tensor, counted: Tensor) -> Tensor:
    """Return the pixels, the right ones and the sum of the confidences in equal cells from 0 to 1.

    Args:
        confidence: (B, G, H, W), 0..1.
        right: of the same shape, bool.
        counted: which pixels count, of the same shape, bool.

    Returns:
        (G, CELLS, 3), int64; the sum is in steps of 1 / RESOLUTION.
    """
    levels = (confidence * RESOLUTION).long().clamp_(0, RESOLUTION)  # NaN too, which has a message of its own
    cells = (levels * CELLS // RESOLUTION).clamp_(max=CELLS - 1)
    groups = confidence.shape[1]
    cells += torch.arange(groups, device=cells.device).view(1, -1, 1, 1) * CELLS
    cells = torch.where(counted, cells, groups * CELLS).flatten()  # the last cell is left out
    empty = cells.new_zeros(groups * CELLS + 1)
    values = (torch.ones_like(levels), right.long(), levels)
    sums = [empty.index_add(0, cells, each.flatten())[:-1] for each in values]  # exact and deterministic, also on a GPU
    return torch.stack(sums, dim=-1).view(-1, CELLS, 3)


def calibration_error(counts: Tensor) -> Tensor:
    """Return the expected calibration error (G,), 0..1, of counts (G, CELLS, 3); NaN where no pixel counts.

    It is the mean difference between the confidence and the share of right pixels of a bin, over all pixels.

    Source: Guo et al. 2017, https://arxiv.org/abs/1706.04599

    >>> counts = torch.zeros(1, CELLS, 3, dtype=torch.int64)
    >>> counts[0, 255] = torch.tensor([4, 3, int(4 * 0.85 * RESOLUTION)])  # 0.85 sure, and right in 3 of 4
    >>> round(float(calibration_error(counts)), 4)
    0.1
    """
    pixels, right, confidence = _bins(counts).unbind(-1)
    return (right - confidence).abs().sum(-1) / pixels.sum(-1)


def reliability(counts: Tensor) -> dict[str, Tensor]:
    """Return the mean `confidence`, the `accuracy` and the `pixel_share` (BINS,) of counts (G, CELLS, 3), all together.

    A bin without pixels has NaN, and the share 0.
    """
    pixels, right, confidence = _bins(counts).sum(0).unbind(-1)
    share = pixels / pixels.sum().clamp(min=1)
    return {"confidence": confidence / pixels, "accuracy": right / pixels, "pixel_share": share}


def _bins(counts: Tensor) -> Tensor:
    """Return (G, BINS, 3), float64: pixels, right ones, sum of confidences."""
    return counts.view(len(counts), BINS, -1, 3).sum(2) / counts.new_tensor([1, 1, RESOLUTION]).double()
