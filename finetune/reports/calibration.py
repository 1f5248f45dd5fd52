"""Files of an evaluation about probabilities: calibration, and the scores at every threshold."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from finetune.io.atomic_write import replace_text
from finetune.metrics.calibration import calibration_error, reliability
from finetune.metrics.evaluator import Row
from finetune.metrics.thresholds import STEPS, best_threshold, threshold_scores
from finetune.plots.calibration import reliability_figure, thresholds_figure
from finetune.reports.evaluation import write_rows


def write_probabilities(folder: Path, counts: Tensor, classes: Sequence[str], temperature: float = 1.0) -> list[str]:
    """Write the files about probabilities, and return lines about them.

    These are `calibration.json` and `calibration.png` and, for two classes or several per pixel, `thresholds.csv` and
    `thresholds.png`.

    Args:
        folder: exists.
        counts: (G, CELLS, 3) of `Confidences`.
        classes: names of the K classes.
        temperature: of the model.
    """
    errors, curve = calibration_error(counts), reliability(counts)
    error, rows = float(errors.nanmean()), zip(*(values.tolist() for values in curve.values()), strict=True)
    content = {
        "ece": _plain(error),
        "temperature": temperature,
        "pixels": int(counts[..., 0].sum()),
        "ece_of_classes": dict(zip(classes, map(_plain, errors.tolist()), strict=True)) if len(errors) > 1 else {},
        "bins": [dict(zip(curve, map(_plain, row), strict=True)) for row in rows],
    }
    replace_text(folder / "calibration.json", json.dumps(content, indent=2) + "\n")
    reliability_figure(curve, f"expected calibration error {error:.3f}", folder / "calibration.png")
    line = f"expected calibration error {error:.4f} at temperature {temperature:.3g}"
    return [line, _write_thresholds(folder, counts, classes)] if len(classes) in (2, len(counts)) else [line]


def _write_thresholds(folder: Path, counts: Tensor, classes: Sequence[str]) -> str:
    names, scores = classes[-len(counts) :], threshold_scores(counts)
    rows: list[Row] = [
        {"class": name, "threshold": step / STEPS, **{key: float(score[index, step]) for key, score in scores.items()}}
        for index, name in enumerate(names)
        for step in range(STEPS)
    ]
    write_rows(folder / "thresholds.csv", rows)
    best = [best_threshold(iou) for iou in scores["iou"]]
    thresholds_figure(scores, best, names, folder / "thresholds.png")
    reached = torch.stack([iou[round(step * STEPS)] for iou, step in zip(scores["iou"], best, strict=True)]).nanmean()
    text = f"IoU {float(reached):.4f} instead of {float(scores['iou'][:, STEPS // 2].nanmean()):.4f} at 0.5"
    if len(names) == len(classes):
        return f"best thresholds on these images: threshold=[{','.join(map(str, best))}], mean {text}"
    return f"best threshold on these images: threshold={best[0]} for the probability of {names[0]}, {text}"


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value
