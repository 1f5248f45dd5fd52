"""Files of an evaluation about probabilities: calibration, and the scores at every threshold."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from finetune.metrics.calibration import calibration_error, reliability
from finetune.metrics.measurement import Sums
from finetune.metrics.thresholds import STEPS, best_threshold, threshold_scores
from finetune.plots.calibration import reliability_figure, thresholds_figure


def write_probabilities(
    folder: Path, measured: Mapping[str, Sums], classes: Sequence[str], temperature: float = 1.0
) -> list[str]:
    """Write the files about probabilities, and return lines about them.

    An evaluation with `Confidences` has `calibration.json` and `calibration.png`, one with `Thresholds` has
    `thresholds.csv` and `thresholds.png`.

    Args:
        folder: exists.
        measured: sums of the measurements, by the names `confidences` and `thresholds`.
        classes: names of the K classes.
        temperature: of the model.
    """
    lines = []
    if "confidences" in measured:
        lines += [_write_calibration(folder, measured["confidences"]["bins"], classes, temperature)]
    if "thresholds" in measured:
        lines += [_write_thresholds(folder, measured["thresholds"]["steps"], classes)]
    return lines


def _write_calibration(folder: Path, bins: Tensor, classes: Sequence[str], temperature: float) -> str:
    errors = calibration_error(bins).tolist()
    error, curve = sum(errors) / len(errors), reliability(bins)
    rows = zip(*(values.tolist() for values in curve.values()), strict=True)
    content = {
        "ece": _plain(error),
        "temperature": temperature,
        "pixels": int(bins[..., 0].sum()),
        "ece_of_classes": dict(zip(classes, map(_plain, errors), strict=True)) if len(errors) > 1 else {},
        "bins": [dict(zip(curve, map(_plain, row), strict=True)) for row in rows],
    }
    (folder / "calibration.json").write_text(json.dumps(content, indent=2) + "\n")
    reliability_figure(curve, f"expected calibration error {error:.3f}", folder / "calibration.png")
    return f"expected calibration error {error:.4f} at temperature {temperature:.3g}"


def _write_thresholds(folder: Path, steps: Tensor, classes: Sequence[str]) -> str:
    names, scores = classes[-len(steps) :], threshold_scores(steps)
    best = [best_threshold(iou) for iou in scores["iou"]]
    with (folder / "thresholds.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["class", "threshold", *scores])
        for index, name in enumerate(names):
            for step, values in enumerate(zip(*(score[index].tolist() for score in scores.values()), strict=True)):
                table.writerow([name, step / STEPS, *("" if math.isnan(value) else value for value in values)])
    thresholds_figure(scores, best, names, folder / "thresholds.png")
    return _threshold_line(scores["iou"], best, names, by_class=len(names) == len(classes))


def _threshold_line(iou: Tensor, best: Sequence[float], names: Sequence[str], by_class: bool) -> str:
    reached = torch.stack([values[round(step * STEPS)] for values, step in zip(iou, best, strict=True)]).nanmean()
    text = f"IoU {float(reached):.4f} instead of {float(iou[:, STEPS // 2].nanmean()):.4f} at 0.5"
    if by_class:
        return f"best thresholds on these images: task.thresholds=[{','.join(map(str, best))}], mean {text}"
    return f"best threshold on these images: {best[0]} for the probability of {names[0]}, {text} of that class"


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value
