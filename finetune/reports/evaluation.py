"""Files of an evaluation, and the curves of a run."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path

from torch import Tensor

from finetune.io.atomic_write import replace_text
from finetune.io.safe_files import table_reader
from finetune.metrics.evaluator import Counts, Evaluator, Row, summary
from finetune.metrics.overlaps import ImageResults, overlap_iou
from finetune.plots import class_bars_figure, confusion_figure, curves_figure
from finetune.reports.comparison import FILE, save_overlaps


def write_evaluation(
    folder: Path,
    evaluator: Evaluator,
    counts: Counts,
    images: ImageResults | None = None,
    names: Sequence[str] = (),
    columns: Mapping[str, Sequence[float]] | None = None,
) -> dict[str, float]:
    """Write the files of an evaluation, and return the scores of the whole set.

    Every evaluation has `scores.json` and `classes.csv`. `classes.png` needs an IoU per class, `confusion.csv` and
    `confusion.png` a confusion matrix, `images.csv` and `interval.json` the results of each image.

    Args:
        folder: created if needed.
        evaluator: of the task.
        counts: summed over all ranks.
        images: results of each image; None if the task has none.
        names: of the images of the data set.
        columns: further numbers of each image of the data set, for `images.csv`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scores = summary(evaluator.compute(counts))
    write_scores(folder / "scores.json", scores)
    rows = evaluator.class_rows(counts)
    write_rows(folder / "classes.csv", rows)
    classes = [str(row["class"]) for row in rows]
    if "iou" in rows[0]:
        iou, share = ([float(row[key]) for row in rows] for key in ("iou", "pixel_share"))
        class_bars_figure(iou, share, classes, folder / "classes.png")
    matrix = evaluator.confusion_matrix(counts)
    if matrix is not None:
        _write_matrix(folder / "confusion.csv", matrix, classes)
        confusion_figure(matrix, classes, folder / "confusion.png")
    if images is not None and len(images.seen):
        write_rows(folder / "images.csv", image_rows(images, names, classes, columns or {}))
        save_overlaps(folder / FILE, images, names, classes)
    if images is not None and images.interval is not None:
        content = {"iou": images.interval, "images": len(images.seen)}
        replace_text(folder / "interval.json", json.dumps(content, indent=2) + "\n")
    return scores


def interval_text(images: ImageResults | None) -> str:
    """Return the interval of the mean IoU in words, for the line with the score; nothing if there is none."""
    if images is None or images.interval is None:
        return ""
    low, high = images.interval
    return f" ({low:.3f} to {high:.3f} for 95% of the sets drawn from these images)"


def image_rows(
    images: ImageResults, names: Sequence[str], classes: Sequence[str], columns: Mapping[str, Sequence[float]]
) -> list[Row]:
    """Return one row per image, the worst first: its name, its mean IoU, further columns, and the IoU of each class.

    The mean is over the classes that the image has or that were predicted.
    """
    iou = overlap_iou(images.overlaps)
    means = iou.nanmean(-1)
    order = sorted(images.seen.tolist(), key=lambda index: (means[index].isnan().item(), float(means[index])))
    return [
        {
            "image": names[index],
            "iou": float(means[index]),
            **{name: values[index] for name, values in columns.items()},
            **{f"iou/{name}": value for name, value in zip(classes, iou[index].tolist(), strict=True)},
        }
        for index in order
    ]


def write_scores(path: Path, scores: Mapping[str, float]) -> None:
    """Write scores as JSON, null where there is none."""
    plain = {name: value if math.isfinite(value) else None for name, value in scores.items()}
    replace_text(path, json.dumps(plain, indent=2) + "\n")


def write_rows(path: Path, rows: Sequence[Mapping[str, str | float]]) -> None:
    """Write a table as CSV, with empty cells where there is no score."""
    file = StringIO(newline="")
    writer = csv.DictWriter(file, rows[0])
    writer.writeheader()
    writer.writerows({k: "" if v != v else v for k, v in row.items()} for row in rows)  # NaN != NaN
    replace_text(path, file.getvalue())


def read_table(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file, which another person may have written; none if it is missing."""
    return list(table_reader(path)) if path.is_file() else []


def _write_matrix(path: Path, matrix: Tensor, names: Sequence[str]) -> None:
    file = StringIO(newline="")
    table = csv.writer(file)
    table.writerow(["truth \\ prediction", *names])
    table.writerows([name, *row] for name, row in zip(names, matrix.tolist(), strict=True))
    replace_text(path, file.getvalue())


def write_curves(run: Path) -> None:
    """Draw `plots/loss.png` and `plots/iou.png` from the `metrics.csv` of a run, if it exists."""
    if not (run / "metrics.csv").is_file():
        return
    with (run / "metrics.csv").open(newline="") as file:
        rows = [{k: float(v) for k, v in row.items() if v != ""} for row in csv.DictReader(file)]
    (run / "plots").mkdir(exist_ok=True)
    curves_figure(rows, run / "plots")
