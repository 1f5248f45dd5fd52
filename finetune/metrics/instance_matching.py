"""Matching of the predicted objects of one image with its true ones, by the rules of COCO.

Source: Lin et al. 2014, https://arxiv.org/abs/1405.0312, and https://cocodataset.org/#detection-eval
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from finetune.instances import Objects
from finetune.metrics.object_overlaps import box_overlaps, mask_overlaps

Array = NDArray[Any]

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of IoU; NumPy's rounding, which is COCO's, decides at 3/5
AREAS = {
    "all": (0, 1e10),
    "small": (0, 32**2),
    "medium": (32**2, 96**2),
    "large": (96**2, 1e10),
}  # pixels, both ends in
BITS = len(THRESHOLDS) * len(AREAS)
ONE = 2**32  # IoU as an integer, so that sums do not depend on their order
COLUMNS = ("image", "class", "position", "score", "iou", "mask_right", "mask_wrong", "box_right", "box_wrong")


def match(iou: Array, areas: Array, true_areas: Array) -> tuple[Array, Array, Array]:
    """Give each predicted object, by falling score, the true object with the highest IoU that is still free.

    One outside of the range of areas is taken only if there is no other; the ignored pixels are never used up.

    Args:
        iou: (D, G + 1), by falling score, 0 between classes; the last column is the share on ignored pixels.
        areas: of the predicted objects (D,).
        true_areas: of the true objects (G,).

    Returns:
        Whether an object has a true one of the range (D, T, A), bool; whether it has none, nor an ignored one, and is
        of the range itself (D, T, A), bool; and the IoU at the first threshold and range (D,), 0 without a true object.
    """
    ignored = np.pad(outside(true_areas), ((0, 0), (0, 1)), constant_values=True)
    taken = np.zeros((len(THRESHOLDS), *ignored.shape), dtype=np.bool_)
    partner = np.full((len(iou), *taken.shape[:2]), -1)
    possible = iou >= THRESHOLDS[0]
    for index in np.flatnonzero(possible.any(1)):
        near = np.flatnonzero(possible[index])
        near = near[np.argsort(iou[index, near], kind="stable")]  # of equal ones, COCO takes the last
        allowed = (iou[index, near] >= THRESHOLDS[:, None, None]) & ~taken[:, :, near]
        preference = allowed * (np.arange(1, len(near) + 1) + len(near) * ~ignored[:, near])
        partner[index] = np.where(allowed.any(-1), near[preference.argmax(-1)], -1)
        used = (partner[index] >= 0) & (partner[index] < len(true_areas))
        taken[(*used.nonzero(), partner[index][used])] = True
    matched = partner >= 0
    counts = ~np.where(matched, ignored[np.arange(len(AREAS)), partner], outside(areas).T[:, None])
    right = matched & counts
    return right, counts & ~matched, iou[np.arange(len(iou)), partner[:, 0, 0]] * right[:, 0, 0]


def outside(areas: Array) -> Array:
    """Return which areas (N,) are outside of each of `AREAS` (A, N)."""
    return np.stack([(areas < low) | (areas > high) for low, high in AREAS.values()])


def match_image(image: int, predicted: Objects, true: Objects) -> tuple[Tensor, Tensor]:
    """Return a row of numbers for each of D predicted objects, by falling score, and the areas of the true ones (G,).

    Returns:
        Rows, int64 (D, 9), on the CPU: `COLUMNS`. `position` counts from 0 in a class; `score` is a float32's bits, of
        which a higher score has the larger number; `iou` is a fraction of `ONE`; the others have a bit for each
        threshold and range of areas. Areas, int64 (G,), on the CPU, pixels.
    """
    scores, order = predicted.scores.float().cpu().sort(descending=True, stable=True)
    labels = predicted.labels.cpu()[order]
    other = F.pad(labels[:, None] != true.labels.cpu(), (0, 1))  # ignored pixels are of all classes
    position = (labels[:, None] == labels).tril(-1).sum(1)
    *of_masks, true_areas = mask_overlaps(predicted, true)
    masks, boxes = (
        match(iou[order].masked_fill(other, 0).numpy(), areas[order].numpy(), true_areas.numpy())
        for iou, areas in (of_masks, box_overlaps(predicted, true))
    )
    bits = [each.reshape(-1, BITS) @ (1 << np.arange(BITS)) for each in (*masks[:2], *boxes[:2])]
    columns = [torch.full_like(labels, image), labels, position, scores.view(torch.int32).long()]
    columns += [torch.from_numpy(each) for each in (np.rint(masks[2] * ONE).astype(np.int64), *bits)]
    return torch.stack(columns, dim=1), true_areas.long()
