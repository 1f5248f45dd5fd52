"""The page of a run: its data, scores, worst and best images, training and settings, from the run's files."""

import os
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

from finetune.io.safe_files import LONGEST_TEXT, read_json, read_text
from finetune.plots import palette
from finetune.reports.data_section import data_section
from finetune.reports.evaluation import read_table
from finetune.reports.page import figure, folded, page, photo, swatch, table

STYLE = """
.curves { display: flex; flex-wrap: wrap; gap: 12px }
.curves figure { flex: 1 1 420px; max-width: 640px } .headline { font-size: 20px }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 12px } details { margin: 8px 0 }
.bar { display: block; height: 10px; background: #4477aa } td { white-space: nowrap }
@media print { details, .screen { display: none } .scroll { overflow: visible } }
@media print { h2 { break-after: avoid } figure { break-inside: avoid } }
"""
SHOWN = 20  # images in a table
BOUNDARIES = (  # columns of boundaries.csv that fit the page
    *("boundary_iou", "boundary_f1_2px", "boundary_f1_5px", "hd95_px", "assd_px", "compared", "one_sided"),
    *("objects", "detected", "detected_small", "detected_medium", "detected_large", "false_alarms"),
)
BAR = 120  # pixels of an IoU of 1


def run_page(run: Path) -> str:
    """Return the page of a run that has an evaluation, from files that another person may have written."""
    config = read_json(run / "model" / "config.json") if (run / "model" / "config.json").is_file() else {}
    evaluations = sorted(path.parent for path in run.glob("evaluation/*/scores.json"))
    body = [
        f"<h1>{escape(run.resolve().parent.name)} {escape(run.resolve().name)}</h1>",
        *_model(config),
        *data_section(run),
        *(part for folder in evaluations for part in _evaluation(folder)),
        *_training(run),
        *_speed(run),
        '<h2 class="screen">Settings</h2>',
        *_texts(run, ("config.yaml", "env.json", "train.log")),
    ]
    return page(f"Run {run.resolve().name}", body, STYLE)


def _model(config: Any) -> Iterator[str]:
    model = config.get("model") if isinstance(config, dict) else None
    if isinstance(model, dict):
        yield (
            f"<p>{escape(str(model.get('backbone')))} with a {escape(str(model.get('head')))} head; license of the "
            f"pretrained weights: {escape(str(model.get('weights_license')))}</p>"
        )


def _evaluation(folder: Path) -> Iterator[str]:
    scores, classes = read_json(folder / "scores.json"), read_table(folder / "classes.csv")
    yield f"<h2>Scores on {escape(folder.name)}</h2>"
    yield f'<p class="headline">{_headline(scores, folder / "interval.json")}</p>'
    yield table(("score", "value"), [(_words(name), _number(value)) for name, value in scores.items()])
    yield "<h2>Classes, the worst first</h2>"
    yield _class_table(classes)
    if rows := read_table(folder / "boundaries.csv"):
        cells = [(escape(row["class"]), *(_number(row.get(name)) for name in BOUNDARIES)) for row in rows]
        yield "<h2>Boundaries and objects</h2>" + table(("class", *map(_words, BOUNDARIES)), cells)
    yield figure(folder / "confusion.png", "What the pixels of each class were predicted as")
    yield figure(folder / "calibration.png", "How often the model is right at each confidence")
    yield figure(folder / "thresholds.png", "Scores at each threshold of the probability")
    yield photo(folder / "worst.png", "The images with the lowest IoU")
    yield photo(folder / "best.png", "The images with the highest IoU")
    yield photo(folder / "examples.png", "Images with their true and their predicted objects")
    if rows := read_table(folder / "slices.csv"):
        yield f"<h2>Slices, the worst {len(rows[:SHOWN])} of {len(rows):,}</h2>"
        keys = ("iou", "low", "high")
        cells = [(*(escape(r[k]) for k in ("slice", "value", "images")), *(_number(r[k]) for k in keys)) for r in rows]
        yield table(("slice", "value", "images", "IoU", "from", "to"), cells[:SHOWN])
    if rows := read_table(folder / "images.csv"):
        worst = [(escape(row["image"]), _number(row["iou"])) for row in rows[:SHOWN]]
        yield f"<h2>Images, the worst {len(worst)} of {len(rows):,}</h2>" + table(("image", "IoU"), worst)


def _headline(scores: Any, interval: Path) -> str:
    name = "iou" if "iou" in scores else next(iter(scores), "")
    text = f"{_words(name)} {_number(scores.get(name))}"
    if name == "iou" and interval.is_file():
        low, high = read_json(interval)["iou"]
        text += f", {_number(low)} to {_number(high)} for 95 % of the sets drawn from these images"
    return text


def _class_table(rows: Sequence[dict[str, str]]) -> str:
    """Return the scores of the classes with a bar for the first one, absent classes last."""
    columns = [name for name in rows[0] if name not in ("class", "pixel_share")] if rows else []
    if not columns:
        return ""
    colors = dict(zip([row["class"] for row in rows], palette(len(rows)), strict=True))
    ordered = sorted(rows, key=lambda row: (row[columns[0]] == "", float(row[columns[0]] or 0)))
    cells = [
        (
            swatch(colors[row["class"]]) + escape(row["class"]),
            f'<span class="bar" style="width: {BAR * float(row[columns[0]] or 0):.0f}px"></span>',
            f"{float(row['pixel_share']):.2%}" if row.get("pixel_share") else "",
            *(_number(row[name]) for name in columns),
        )
        for row in ordered
    ]
    return table(("class", "", "pixels", *map(_words, columns)), cells)


def _training(run: Path) -> Iterator[str]:
    yield "<h2>Training</h2>"
    if rows := read_table(run / "metrics.csv"):
        steps, minutes = int(rows[-1]["step"]), sum(float(row["seconds"]) for row in rows) / 60
        peaks = [float(row["memory_mb"]) for row in rows if row.get("memory_mb")]
        memory = f", with at most {max(peaks):,.0f} MB of memory" if peaks else ""
        yield f"<p>{len(rows):,} epochs, {steps:,} steps and their validations in {minutes:.1f} minutes{memory}</p>"
    yield '<div class="curves">'
    yield figure(run / "plots" / "iou.png", "IoU on the validation images")
    yield figure(run / "plots" / "mask_ap.png", "Average precision of masks on the validation images")
    yield figure(run / "plots" / "loss.png", "Loss")
    yield figure(run / "plots" / "tuning.png", "Learning rates, and what trained when")
    yield photo(run / "plots" / "augmentation.png", "Augmented training samples")
    yield "</div>"
    if rows := read_table(run / "plots" / "tuning.csv"):
        cells = [(escape(row["layer_group"]), *(f"{float(row[name]):.4g}" for name in list(row)[1:])) for row in rows]
        yield "<h2>What trained when</h2>" + table(tuple(map(_words, rows[0])), cells)


def _speed(run: Path) -> Iterator[str]:
    """Yield the table of the latest benchmark, if there is one."""
    tables = sorted(run.glob("benchmark*/benchmark.csv"), key=lambda path: path.stat().st_mtime)
    if tables and (rows := read_table(tables[-1])):
        columns = ("form", "batch_size", "height", "width", "median_ms", "p95_ms", "images_per_second", "megabytes")
        cells = [(escape(row["form"]), *(_number(row.get(name)) for name in columns[1:])) for row in rows]
        yield "<h2>Time and memory of predictions</h2>" + table(tuple(map(_words, columns)), cells)


def _texts(run: Path, names: Sequence[str]) -> Iterator[str]:
    for name in names:
        path = run / name
        if path.is_file() and path.stat().st_size <= LONGEST_TEXT:
            yield folded(name, read_text(path))
        elif path.is_file():
            with path.open("rb") as file:
                file.seek(-LONGEST_TEXT, os.SEEK_END)
                yield folded(f"{name}, its end", file.read(LONGEST_TEXT).decode("utf-8", "replace"))


def _words(name: object) -> str:
    """Return the name of a score as words.

    >>> _words("pixel_accuracy"), _words("iou")
    ('pixel accuracy', 'IoU')
    """
    return escape(str(name).replace("_", " ")).replace("iou", "IoU")


def _number(value: Any) -> str:
    """Return a score with four digits, and a whole number as it is; a dash for none."""
    try:
        return value if str(value).isdecimal() else f"{float(value):.4f}"
    except (TypeError, ValueError):
        return "-"
