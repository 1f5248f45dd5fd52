"""Scores of single images, and how far the score of a set may be off, from the overlaps of each image's classes.

Overlaps are pixel counts (..., K, 3), int64: of a class in truth and prediction, in the truth, and in the prediction.
They add up over images, and the IoU of their sum is that of the whole set.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from finetune.metrics.measurement import ImageBatch, Sums

RESAMPLES = 1000
INTERVAL = 0.95
AT_ONCE = 100  # resamples in one product of matrices


@dataclass(frozen=True)
class ImageResults:
    """What an evaluation found for each image of a data set of N images.

    Attributes:
        seen: indices of the images that were evaluated, int64.
        overlaps: (N, K, 3), int64.
    """

    seen: Tensor
    overlaps: Tensor

    @cached_property
    def interval(self) -> tuple[float, float] | None:
        """The limits of the mean IoU, as in `interval`; None for less than two images in which a pixel counts."""
        overlaps = counted(self.overlaps[self.seen])
        return interval(overlaps) if len(overlaps) > 1 else None


class ImageOverlaps:
    """Keeps the overlaps of each image; see `Measurement`.

    Args:
        images: N, of the data set.
        classes: K.
        ignore_index: label of the pixels to leave out.
    """

    def __init__(self, images: int, classes: int, ignore_index: int) -> None:
        self._images, self._classes, self._ignore_index = images, classes, ignore_index
        self._rows: list[tuple[Tensor, Tensor]] = []

    def update(self, batch: ImageBatch) -> None:
        """Keep the overlaps of a batch."""
        rows = class_overlaps(batch.prediction, batch.target, self._classes, self._ignore_index)
        self._rows.append((batch.index, rows))

    def sums(self) -> dict[str, Tensor]:
        """Return `overlaps` (N, K, 3), and `seen` (N,), 1 for an image that was measured; int64."""
        overlaps = torch.zeros(self._images, self._classes, 3, dtype=torch.int64)
        seen = torch.zeros(self._images, dtype=torch.int64)
        for index, rows in self._rows:
            overlaps[index.cpu()], seen[index.cpu()] = rows.cpu(), 1
        return {"overlaps": overlaps, "seen": seen}


def image_results(sums: Sums) -> ImageResults | None:
    """Return the results of `ImageOverlaps.sums` of all ranks; None if no image was measured."""
    seen = sums["seen"].nonzero().flatten()
    return ImageResults(seen, sums["overlaps"]) if len(seen) else None


def class_overlaps(prediction: Tensor, target: Tensor, classes: int, ignore_index: int = 255) -> Tensor:
    """Return the overlaps (B, K, 3) of each image.

    Args:
        prediction: class indices (B, H, W), or masks (B, K, H, W) of 0 and 1.
        target: of the same shape, with `ignore_index` where a pixel does not count.
        classes: K.
        ignore_index: label of the pixels to leave out.

    >>> class_overlaps(torch.tensor([[[0, 1, 1, 1]]]), torch.tensor([[[0, 0, 1, 255]]]), classes=2)
    tensor([[[1, 2, 1],
             [1, 1, 2]]])
    """
    target = target.int()  # as uint8, -100 == 156
    valid = target != ignore_index
    if target.ndim == 4:
        predicted, true = (prediction == 1) & valid, target == 1
        return torch.stack([part.sum((2, 3)) for part in (predicted & true, true, predicted)], dim=-1)
    # one number per image and pair of labels; the last of an image is left out
    first = torch.arange(len(target), device=target.device).view(-1, 1, 1) * (classes**2 + 1)
    cells = torch.where(valid, target * classes + prediction, classes**2) + first
    counts = torch.bincount(cells.flatten(), minlength=len(target) * (classes**2 + 1)).view(len(target), -1)
    pairs = counts[:, :-1].view(-1, classes, classes)  # rows are the truth
    return torch.stack([pairs.diagonal(dim1=1, dim2=2), pairs.sum(2), pairs.sum(1)], dim=-1)


def overlap_iou(overlaps: Tensor) -> Tensor:
    """Return the IoU (..., K), float64, of overlaps (..., K, 3); NaN where the class is neither true nor predicted."""
    both, true, predicted = overlaps.double().unbind(-1)
    return both / (true + predicted - both)


def counted(overlaps: Tensor) -> Tensor:
    """Return the overlaps of the images in which a pixel counts; a set drawn from others alone would have no IoU."""
    counts = overlaps.flatten(1).any(1)
    return overlaps[counts] if counts.any() else overlaps


def interval(overlaps: Tensor, seed: int = 0) -> tuple[float, float]:
    """Return the limits between which the mean IoU of the set lies for 95 % of the sets that are drawn from its images.

    What another training would change is not in it.

    Args:
        overlaps: of the images (N, K, 3); 2 or more.
        seed: of the sets.
    """
    return limits(drawn_ious(overlaps, seed).nanmean(-1))


def limits(values: Tensor) -> tuple[float, float]:
    """Return the limits between which 95 % of values (N,) lie, as many above as below."""
    tail = (1 - INTERVAL) / 2
    low, high = values.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high


def drawn_ious(overlaps: Tensor, seed: int = 0) -> Tensor:
    """Return the IoU of each class on sets of as many images that are drawn with replacement (bootstrap).

    Args:
        overlaps: of the images (N, K, 3).
        seed: of the sets.

    Returns:
        (RESAMPLES, K), float64, each over all pixels of a set.

    Source: Efron 1979, https://doi.org/10.1214/aos/1176344552
    """
    images, classes, _ = overlaps.shape
    flat, found = overlaps.double().view(images, -1), []
    generator = torch.Generator().manual_seed(seed)
    for _ in range(RESAMPLES // AT_ONCE):
        drawn = torch.randint(images, (AT_ONCE, images), generator=generator)
        times = torch.zeros(AT_ONCE, images, dtype=torch.float64)
        times.scatter_add_(1, drawn, torch.ones_like(times))
        found.append(overlap_iou((times @ flat).view(AT_ONCE, classes, 3)))
    return torch.cat(found)
