"""Scores of instance segmentation: average precision, panoptic quality, F1 and numbers of objects."""

from collections.abc import Sequence

import torch
from torch import Tensor

from finetune.instances import Objects
from finetune.metrics.average_precision import class_tables
from finetune.metrics.confusion import mean
from finetune.metrics.evaluator import Counts, Row
from finetune.metrics.instance_matching import AREAS, COLUMNS, ONE, match_image, outside
from finetune.metrics.table import class_table

ROWS = ("detections", "images")  # counts whose rows of all ranks are concatenated, in any order; others are summed
MAX_DETECTIONS = 100  # of a class in an image, as in COCO; more if an image has more objects
CLASS_SCORES = ("mask_ap", "mask_ap50", "f1", "pq")


class InstanceEvaluator:
    """Matches objects image by image and keeps a row of numbers of each, no masks; see `Evaluator`.

    Scores of masks are `mask_ap` (COCO's AP, the mean over IoU .50 to .95), `mask_ap50`, `mask_ap75`, `mask_ap_small`,
    `mask_ap_medium`, `mask_ap_large` and `mask_ar` (average recall), means over the classes that have objects; those of
    boxes are `box_ap` and so on. Objects predicted with at least `min_score` have `pq`, `sq` and `rq` (panoptic,
    segmentation and recognition quality, such means, too), `f1` of all classes together at a mask IoU of .5, and
    `count_error` and `count_bias`, means over the images: by how much the number of objects is off, and too high. Those
    in `CLASS_SCORES` are of single classes, too. Without true objects, all are NaN but the numbers of objects.

    Unlike in COCO, ignored pixels are one region of any shape, on which boxes count by their share, and an image with
    more than 100 objects raises the limit of detections to that number.

    Args:
        class_names: of the K classes.
        ignore_index: of the interface only; the pixels to leave out are `Objects.ignored`.
        min_score: of the objects that a person is shown.

    Source: https://cocodataset.org/#detection-eval; Kirillov et al. 2019, https://arxiv.org/abs/1801.00868
    """

    def __init__(self, class_names: Sequence[str], ignore_index: int = 255, min_score: float = 0.5) -> None:
        self.class_names = tuple(class_names)
        self.min_score = min_score
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._objects = torch.zeros(len(self.class_names), len(AREAS), dtype=torch.int64)
        self._pixels = torch.zeros(len(self.class_names), dtype=torch.int64)
        self._detections = [torch.zeros(0, len(COLUMNS), dtype=torch.int64)]
        self._images = [torch.zeros(0, 3, dtype=torch.int64)]

    def update(self, prediction: Sequence[Objects], target: Sequence[Objects], index: Tensor) -> None:
        """Match the objects of images.

        Args:
            prediction: of each image.
            target: of each image, on the same device.
            index: number of each image in the data set (B,).

        Raises:
            ValueError: an image's masks are of two sizes, or there is no such class.
        """
        for image, predicted, true in zip(index.tolist(), prediction, target, strict=True):
            self._check(predicted, true)
            rows, areas = match_image(image, predicted, true)
            labels = true.labels.cpu()
            self._objects = self._objects.index_add(0, labels, torch.from_numpy(~outside(areas.numpy()).T).long())
            self._pixels = self._pixels.index_add(0, labels, areas)
            self._detections.append(rows)
            self._images.append(torch.tensor([[image, len(true), _shown(_columns(rows), self.min_score).sum()]]))

    def _check(self, predicted: Objects, true: Objects) -> None:
        if predicted.size != true.size:
            raise ValueError(f"predicted masks of {predicted.size} pixels for an image of {true.size}: resize them.")
        labels, classes = torch.cat([predicted.labels, true.labels]), len(self.class_names)
        stray = labels[(labels < 0) | (labels >= classes)]
        if len(stray):
            raise ValueError(f"an object of class {stray[0]}, but there are {classes} classes (0..{classes - 1}).")

    def counts(self) -> dict[str, Tensor]:
        """Return `objects` (K, A) by class and range of areas, their `pixels` (K,), and `ROWS` of any number; int64.

        `detections` (D, 9) has `COLUMNS`; `images` (I, 3) the image, and its numbers of true and of predicted objects.
        """
        rows = {"detections": torch.cat(self._detections), "images": torch.cat(self._images)}
        return {"objects": self._objects, "pixels": self._pixels, **rows}

    def compute(self, counts: Counts) -> dict[str, float]:
        """Return all scores by log key."""
        columns, objects = _columns(counts["detections"]), counts["objects"]
        _, true, predicted = counts["images"].double().unbind(1)
        limit = max([MAX_DETECTIONS, *true.int().tolist()])
        tables = _precision(columns, "mask", objects, limit) | _precision(columns, "box", objects, limit)
        tables |= _quality(columns, objects[:, 0], self.min_score)
        names = {f"{name}/{label}": (name, k) for name in CLASS_SCORES for k, label in enumerate(self.class_names)}
        by_class = {key: tables[name][k].mean().item() for key, (name, k) in names.items()}
        together = {**columns, "class": torch.zeros_like(columns["class"])}
        tables["f1"] = _quality(together, objects[:, 0].sum(0, keepdim=True), self.min_score)["f1"]
        tables |= {"count_error": (predicted - true).abs(), "count_bias": predicted - true}
        return {**{name: mean(values).item() for name, values in tables.items()}, **by_class}

    def class_rows(self, counts: Counts) -> list[Row]:
        """Return one row per class: its name, its fraction of the pixels of all objects, and its scores."""
        scores, shares = self.compute(counts), counts["pixels"].double() / counts["pixels"].sum().clamp(min=1)
        rows: list[Row] = []
        for name, share in zip(self.class_names, shares.tolist(), strict=True):
            rows.append({"class": name, "pixel_share": share, **{key: scores[f"{key}/{name}"] for key in CLASS_SCORES}})
        return rows

    def confusion_matrix(self, counts: Counts) -> None:
        """Return None: a pixel may have several objects."""
        return None

    def table(self, counts: Counts) -> str:
        """Return the scores of all classes as text."""
        scores = self.compute(counts)
        rows = class_table(self.class_rows(counts), {"pixel_share": 1.0, **scores})
        return f"{rows}\ncount error {scores['count_error']:.2f} objects per image"


def _precision(columns: Counts, kind: str, objects: Tensor, limit: int) -> dict[str, Tensor]:
    """Return average precisions and recall of classes and thresholds (K, n), whose means are scores, by log key."""
    precision, recall = class_tables(columns, kind, objects, limit)
    parts = {"ap": precision[..., 0], "ap50": precision[:, :1, 0], "ap75": precision[:, 5:6, 0]}
    parts |= {f"ap_{area}": precision[..., place] for place, area in enumerate(AREAS) if place}
    return {f"{kind}_{name}": part for name, part in {**parts, "ar": recall[..., 0]}.items()}


def _columns(rows: Tensor) -> dict[str, Tensor]:
    return dict(zip(COLUMNS, rows.unbind(1), strict=True))


def _shown(columns: Counts, min_score: float) -> Tensor:
    """Return which detections have the score and are, at a mask IoU of .5, right or wrong rather than ignored (D,)."""
    scores = columns["score"].int().view(torch.float32)
    return (scores >= min_score) & ((columns["mask_right"] | columns["mask_wrong"]) & 1 > 0)


def _quality(columns: Counts, objects: Tensor, min_score: float) -> dict[str, Tensor]:
    """Return `f1`, `pq`, `sq` and `rq` of each class (K, 1), of detections (D,) and numbers of objects (K,)."""
    shown = _shown(columns, min_score)
    right = shown & (columns["mask_right"] & 1 > 0)
    more = right & (columns["iou"] > ONE // 2)  # PQ asks for more than half, COCO for half
    shown, right, found = (columns["class"][each].bincount(minlength=len(objects)) for each in (shown, right, more))
    overlap = torch.zeros_like(objects).index_add_(0, columns["class"][more], columns["iou"][more]).double() / ONE
    every = (objects + shown).double() / 2  # TP + FP / 2 + FN / 2
    scores = {"f1": right / every, "pq": overlap / every, "sq": overlap / found.clamp(min=1), "rq": found / every}
    return {name: each.masked_fill(objects == 0, torch.nan)[:, None] for name, each in scores.items()}
