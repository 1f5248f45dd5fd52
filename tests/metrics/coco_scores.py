"""The scores of pycocotools, from the same objects as ours."""

import contextlib
import io
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch

from finetune.instances import Objects, boxes_of
from tests.metrics.scenes import Scenes

AREAS = ("all", "small", "medium", "large")


def coco_scores(images: Scenes, names: tuple[str, ...]) -> dict[str, float]:
    """Return COCO's scores by our log keys, NaN instead of -1; skip the test without pycocotools."""
    coco = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    most = max(100, *(len(true) for _, true in images))
    scores = {}
    for kind, iou_type in (("mask", "segm"), ("box", "bbox")):
        true, predicted = coco.COCO(), coco.COCO()
        with contextlib.redirect_stdout(io.StringIO()):
            for made, column in ((predicted, 0), (true, 1)):
                made.dataset = _data_set([pair[column] for pair in images], names, kind, is_true=bool(column))
                made.createIndex()
            judge = evaluation.COCOeval(true, predicted, iou_type)
            judge.params.maxDets = [1, 10, most]
            judge.evaluate()
            judge.accumulate()
        precision, recall = (judge.eval[name][..., -1] for name in ("precision", "recall"))  # (T, R, K, A), (T, K, A)
        scores |= {f"{kind}_ap": _mean(precision[..., 0]), f"{kind}_ar": _mean(recall[..., 0])}
        scores |= {f"{kind}_ap50": _mean(precision[0, ..., 0]), f"{kind}_ap75": _mean(precision[5, ..., 0])}
        scores |= {f"{kind}_ap_{area}": _mean(precision[..., AREAS.index(area)]) for area in AREAS[1:]}
        if kind == "mask":
            scores |= {f"mask_ap/{name}": _mean(precision[:, :, k, 0]) for k, name in enumerate(names)}
            scores |= {f"mask_ap50/{name}": _mean(precision[0, :, k, 0]) for k, name in enumerate(names)}
    return scores


def _mean(values: np.ndarray) -> float:
    return float(values[values > -1].mean()) if (values > -1).any() else float("nan")


def _data_set(images: Iterable[Objects], names: tuple[str, ...], kind: str, is_true: bool) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    for image, objects in enumerate(images):
        rows = list(zip(objects.masks, objects.labels.tolist(), objects.boxes, objects.scores.tolist(), strict=True))
        crowds = []
        if is_true and objects.ignored is not None:  # one crowd a class, after the objects
            box = boxes_of(objects.ignored[None])[0]
            crowds = [(objects.ignored, label, box, 1.0) for label in range(len(names))]
        for place, (mask, label, box, score) in enumerate([*rows, *crowds]):
            left, top, right, bottom = box.tolist()
            in_box = kind == "box" and not is_true
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": label,
                    "bbox": [left, top, right - left, bottom - top],
                    "area": (right - left) * (bottom - top) if in_box else int(mask.sum()),
                    "segmentation": _run_lengths(mask),
                    "iscrowd": int(place >= len(rows)),
                    "score": score,
                }
            )
    pictures = [{"id": image, "height": o.size[0], "width": o.size[1]} for image, o in enumerate(images)]
    return {"images": pictures, "annotations": annotations, "categories": [{"id": k} for k in range(len(names))]}


def _run_lengths(mask: torch.Tensor) -> Any:
    return pytest.importorskip("pycocotools.mask").encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
