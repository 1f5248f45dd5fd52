"""Files of an evaluation, and the curves of a run."""

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from finetune.metrics.evaluator import Counts, Evaluator, Row, summary
from finetune.plots import class_bars_figure, confusion_figure, curves_figure


def write_evaluation(folder: Path, evaluator: Evaluator, counts: Counts) -> dict[str, float]:
    """Write the files of an evaluation, and return the scores of the whole set.

    Every evaluation has `scores.json` and `classes.csv`. `classes.png` needs an IoU per class, and `confusion.csv` and
    `confusion.png` a confusion matrix.

    Args:
        folder: created if needed.
        evaluator: of the task.
        counts: summed over all ranks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scores = summary(evaluator.compute(counts))
    plain = {name: None if math.isnan(value) else value for name, value in scores.items()}
    (folder / "scores.json").write_text(json.dumps(plain, indent=2) + "\n")
    rows = evaluator.class_rows(counts)
    _write_rows(folder / "classes.csv", rows)
    names = [str(row["class"]) for row in rows]
    if "iou" in rows[0]:
        iou, share = ([float(row[key]) for row in rows] for key in ("iou", "pixel_share"))
        class_bars_figure(iou, share, names, folder / "classes.png")
    matrix = evaluator.confusion_matrix(counts)
    if matrix is not None:
        _write_matrix(folder / "confusion.csv", matrix, names)
        confusion_figure(matrix, names, folder / "confusion.png")
    return scores


def _write_rows(path: Path, rows: Sequence[Row]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows({k: "" if v != v else v for k, v in row.items()} for row in rows)  # NaN != NaN


def _write_matrix(path: Path, matrix: Tensor, names: Sequence[str]) -> None:
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["truth \\ prediction", *names])
        table.writerows([name, *row] for name, row in zip(names, matrix.tolist(), strict=True))


def write_curves(run: Path) -> None:
    """Draw `plots/loss.png` and `plots/iou.png` from the `metrics.csv` of a run, if it exists."""
    if not (run / "metrics.csv").is_file():
        return
    with (run / "metrics.csv").open(newline="") as file:
        rows = [{k: float(v) for k, v in row.items() if v != ""} for row in csv.DictReader(file)]
    (run / "plots").mkdir(exist_ok=True)
    curves_figure(rows, run / "plots")
