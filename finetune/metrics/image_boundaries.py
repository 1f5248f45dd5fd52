"""Boundary, surface and object scores of an evaluation, from counts and from distances in each image."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finetune.metrics.boundaries import Mask, band, band_width, contour
from finetune.metrics.measurement import ImageBatch, Sums
from finetune.metrics.objects import SIZES, detections, false_alarms
from finetune.metrics.overlaps import overlap_iou
from finetune.metrics.surfaces import assd, hausdorff, hd95, surface_distances

TOLERANCES = (1, 2, 5)  # pixels between boundaries that agree
DISTANCES = {"hausdorff_px": hausdorff, "hd95_px": hd95, "assd_px": assd}


class ImageBoundaries:
    """Compares the boundaries and the objects of each class, image by image; see `Measurement`.

    Args:
        images: N, of the data set.
        classes: K.
        ignore_index: label of the pixels to leave out.
    """

    def __init__(self, images: int, classes: int, ignore_index: int) -> None:
        self._ignore_index = ignore_index
        shapes = {  # the last dimension is truth, prediction, unless it says otherwise
            "areas": (classes, 2),
            "bands": (classes, 3),  # both, truth, prediction: overlaps
            "contours": (classes, 2),
            "near": (classes, len(TOLERANCES), 2),
            "detections": (classes, len(SIZES), 2),  # detected, all
            "false_alarms": (classes, 2),  # without a true pixel, all
            "contoured": (images, classes),  # how many of truth and prediction have a boundary of the class
        }
        self._counts = {name: np.zeros(shape, dtype=np.int64) for name, shape in shapes.items()}
        self._distances = np.zeros((images, classes, len(DISTANCES)))

    def update(self, batch: ImageBatch) -> None:
        """Measure a batch."""
        # as uint8, -100 == 156
        arrays = (tensor.cpu().numpy() for tensor in (batch.index, batch.prediction, batch.target.int()))
        classes = len(self._counts["areas"])
        for image, prediction, target in zip(*arrays, strict=True):
            for label, masks in enumerate(_class_masks(prediction, target, classes, self._ignore_index)):
                self._measure(int(image), label, *masks)

    def _measure(self, image: int, label: int, true: Mask, predicted: Mask, valid: Mask) -> None:
        if not (true.any() or predicted.any()):
            return
        counts, width = self._counts, band_width(*_extent(valid))
        bands = [band(mask, valid, width) for mask in (true, predicted)]
        contours = [contour(mask, valid) for mask in (true, predicted)]
        distances = surface_distances(*contours)
        counts["areas"][label] += [np.count_nonzero(mask) for mask in (true, predicted)]
        counts["bands"][label] += [np.count_nonzero(mask) for mask in (bands[0] & bands[1], *bands)]
        counts["contours"][label] += [np.count_nonzero(mask) for mask in contours]
        counts["near"][label] += [[np.count_nonzero(each <= limit) for each in distances] for limit in TOLERANCES]
        counts["detections"][label] += detections(true, predicted)
        counts["false_alarms"][label] += false_alarms(true, predicted)
        counts["contoured"][image, label] = sum(mask.any() for mask in contours)
        if counts["contoured"][image, label] == 2:
            self._distances[image, label] = [measure(distances) for measure in DISTANCES.values()]

    def sums(self) -> dict[str, Tensor]:
        """Return the counts, int64, and `distances` (N, K, 3), float64, 0 where there are none."""
        arrays = {**self._counts, "distances": self._distances}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _extent(valid: Mask) -> tuple[int, int]:
    """Return height and width of the rectangle around the pixels that count, so that an ignored frame has no effect."""
    rows, columns = (np.flatnonzero(valid.any(axis)) for axis in (1, 0))
    return int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1


def _class_masks(
    prediction: NDArray[np.integer], target: NDArray[np.integer], classes: int, ignore_index: int
) -> Iterator[tuple[Mask, Mask, Mask]]:
    """Yield where each class is true, where it is predicted, and which pixels count (H, W)."""
    for index in range(classes):
        truth, guess, label = (target, prediction, index) if target.ndim == 2 else (target[index], prediction[index], 1)
        valid = truth != ignore_index
        yield (truth == label) & valid, (guess == label) & valid, valid


def class_scores(sums: Sums) -> dict[str, Tensor]:
    """Return the scores of each class (K,), float64, NaN where 0/0, and numbers of images and objects, int64; by name.

    Args:
        sums: of `ImageBoundaries`, of all ranks.
    """
    scores = {"boundary_iou": overlap_iou(sums["bands"])}
    for column, limit in enumerate(TOLERANCES):
        recall, precision = (sums["near"][:, column] / sums["contours"].double()).unbind(-1)
        # a boundary that only one of the two has is wrong, not absent; Csurka et al. 2013, https://doi.org/10.5244/C.27.32
        f1 = (2 * precision * recall / (precision + recall)).nan_to_num(0)
        f1[sums["contours"].sum(-1) == 0] = torch.nan
        named = {"f1": f1, "precision": precision, "recall": recall}
        scores |= {f"boundary_{name}_{limit}px": score for name, score in named.items()}
    compared = (sums["contoured"] == 2).sum(0)
    means = sums["distances"].sum(0) / compared.unsqueeze(-1)
    scores |= dict(zip(DISTANCES, means.unbind(-1), strict=True))
    scores |= {"compared": compared, "one_sided": (sums["contoured"] == 1).sum(0)}
    for name in ("contours", "areas"):
        true, predicted = sums[name].double().unbind(-1)
        ratio = (predicted / true).masked_fill(true == 0, torch.nan)  # there is none to a class that is nowhere
        scores[f"{name.removesuffix('s')}_ratio"] = ratio
    return {**scores, **_object_scores(sums)}


def _object_scores(sums: Sums) -> dict[str, Tensor]:
    by_size = zip((f"_{size}" for size in SIZES), sums["detections"].unbind(1), strict=True)
    found = {"": sums["detections"].sum(1), **dict(by_size)}
    rates = {f"detected{size}": detected[:, 0] / detected[:, 1].double() for size, detected in found.items()}
    numbers = {f"objects{size}": detected[:, 1] for size, detected in found.items()}
    alarms, predicted = sums["false_alarms"].unbind(-1)
    return {**rates, **numbers, "predicted_objects": predicted, "false_alarms": alarms}


def mean_scores(scores: dict[str, Tensor]) -> dict[str, float]:
    """Return the mean of each score over the classes that have a value, and the sum of each number."""
    return {name: (each.nanmean() if each.is_floating_point() else each.sum()).item() for name, each in scores.items()}
