"""How much a model doubts the labels of images, to find wrong ones.

It has to be a model that was not trained on the images, or it has learned their mistakes.
"""

import torch
from torch import Tensor

from finetune.metrics.measurement import ImageBatch
from finetune.metrics.widest_float import widest_float

REFUTED, CONFIDENT = 0.05, 0.9  # probability of the label, and of another class
TEMPERATURE = 0.1  # of the mean of an image: the lower, the more the least probable labels count


class LabelDoubt:
    """Measures the doubt in the labels of each image; see `Measurement`.

    Args:
        images: N, of the data set.
        ignore_index: label of the pixels to leave out.
    """

    def __init__(self, images: int, ignore_index: int) -> None:
        self._quality = torch.zeros(images, dtype=torch.float64)
        self._contradicted = torch.zeros(images, dtype=torch.int64)
        self._ignore_index = ignore_index

    def update(self, batch: ImageBatch) -> None:
        """Measure a batch."""
        index = batch.index.cpu()
        of_label = label_probability(batch.probabilities, batch.target, self._ignore_index)
        self._quality[index] = label_quality(of_label).cpu().double()
        self._contradicted[index] = contradicted(batch.probabilities, of_label).flatten(1).sum(1).cpu()

    def sums(self) -> dict[str, Tensor]:
        """Return `quality` (N,), float64, and the number of `contradicted` pixels (N,), int64."""
        return {"quality": self._quality, "contradicted": self._contradicted}


def label_probability(probabilities: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    """Return the probability of the label of each pixel; NaN where it does not count.

    Args:
        probabilities: of each class (B, K, H, W).
        target: class indices (B, H, W), or masks (B, K, H, W) of 0 and 1.
        ignore_index: label of the pixels to leave out.

    Returns:
        (B, H, W), or (B, K, H, W) for masks.
    """
    counts = target.int() != ignore_index
    if target.ndim == 4:
        of_label = torch.where(target == 1, probabilities, 1 - probabilities)
    else:
        of_label = probabilities.gather(1, torch.where(counts, target, 0).long()[:, None])[:, 0]
    return of_label.masked_fill(~counts, torch.nan)


def contradicted(probabilities: Tensor, of_label: Tensor) -> Tensor:
    """Return the pixels whose label is improbable while the model is sure of another one, as bool.

    Args:
        probabilities: of each class (B, K, H, W).
        of_label: from `label_probability`.
    """
    if of_label.ndim == 4:
        return of_label < min(REFUTED, 1 - CONFIDENT)
    return (of_label < REFUTED) & (probabilities.amax(1) > CONFIDENT)  # the most probable one is not the label then


def label_quality(of_label: Tensor) -> Tensor:
    """Return a mean of the labels' probabilities in each image (B,), in which the improbable ones count most.

    It is the soft minimum that cleanlab scores images with; float64 where the device has it, and NaN for an image
    without pixels that count.

    Args:
        of_label: from `label_probability`.

    Source: Lad and Mueller 2023, https://arxiv.org/abs/2307.05080
    """
    p = of_label.flatten(1).to(widest_float(of_label.device))
    weights = (-p / TEMPERATURE).exp()
    return (weights * p).nansum(1) / weights.nansum(1)
