"""Files of an evaluation, and the curves of a run."""

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from finetune.metrics.confusion import iou, scores
from finetune.metrics.table import class_rows
from finetune.plots import class_bars_figure, confusion_figure, curves_figure


def write_evaluation(folder: Path, matrix: Tensor, names: Sequence[str]) -> dict[str, float]:
    """Write `scores.json`, `classes.csv`, `confusion.csv`, `confusion.png` and `classes.png`.

    Args:
        folder: output folder, created if it does not exist.
        matrix: confusion matrix (K, K), int64; rows are the true classes.
        names: names of the K classes.

    Returns:
        The scores, by name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    values = scores(matrix)
    without_nan = {name: None if math.isnan(value) else value for name, value in values.items()}
    (folder / "scores.json").write_text(json.dumps(without_nan, indent=2) + "\n")
    rows = class_rows(matrix, names)
    with (folder / "classes.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows({k: "" if v != v else v for k, v in row.items()} for row in rows)
    with (folder / "confusion.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["truth \\ prediction", *names])
        table.writerows([name, *row] for name, row in zip(names, matrix.tolist(), strict=True))
    confusion_figure(matrix, names, folder / "confusion.png")
    pixel_fraction = matrix.sum(dim=1).double() / matrix.sum().clamp(min=1)
    class_bars_figure(iou(matrix), pixel_fraction, names, folder / "classes.png")
    return values


def write_curves(run: Path) -> None:
    """Draw `plots/loss.png` and `plots/iou.png` from the `metrics.csv` of a run, if it exists."""
    if not (run / "metrics.csv").is_file():
        return
    with (run / "metrics.csv").open(newline="") as file:
        rows = [{k: float(v) for k, v in row.items() if v != ""} for row in csv.DictReader(file)]
    (run / "plots").mkdir(exist_ok=True)
    curves_figure(rows, run / "plots")
