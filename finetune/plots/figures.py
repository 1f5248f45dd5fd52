"""Figures of a report: curves of a run, confusion matrix, scores of classes.

They use matplotlib's `Figure` directly: pyplot has global state, which would interfere with that of a notebook.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from finetune.plots.text import axis_label, font_families, label_inches

Values = Tensor | NDArray[Any] | Sequence[float]

BLUE, ORANGE, GREEN, GRAY, LIGHT_GRAY = "#0072b2", "#d55e00", "#009e73", "#6b7280", "#eceef1"
SCORES = ("iou", "mask_ap")  # with a curve of their own
MAX_MATRIX_CLASSES, MAX_ANNOTATED_CLASSES, MAX_CONFUSIONS = 30, 15, 25
STYLE = {
    "font.size": 10,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GRAY,
    "grid.color": LIGHT_GRAY,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "savefig.dpi": 130,
}


def curves_figure(rows: Sequence[Mapping[str, float]], folder: Path) -> list[Path]:
    """Write `loss.png`, and `iou.png` or `mask_ap.png`, each with the learning rate below and the best epoch marked.

    Args:
        rows: one row per epoch, as in `metrics.csv`: `epoch`, and any of `train/loss`, `val/loss`, `val/iou`,
            `val/mask_ap`, `lr`; an epoch without validation has no `val/` values.
        folder: existing output folder.

    Returns:
        The files written; a figure without any values is skipped.
    """
    figures = {
        "loss": {"train/loss": BLUE, "val/loss": ORANGE},
        **{name: {f"val/{name}": GREEN} for name in SCORES},
    }
    files = []
    for name, series in figures.items():
        if present := {key: color for key, color in series.items() if any(key in row for row in rows)}:
            _curves(rows, present, folder / f"{name}.png")
            files.append(folder / f"{name}.png")
    return files


def confusion_figure(matrix: Tensor, class_names: Sequence[str], path: Path) -> None:
    """Write the confusion matrix, normalized by row; for more than 30 classes, write only the largest confusions.

    Args:
        matrix: confusion matrix (K, K), int64; rows are the true classes.
        class_names: names of the K classes.
        path: output file.
    """
    counts = matrix.cpu().numpy()
    with np.errstate(invalid="ignore"):
        fractions = counts / counts.sum(axis=1, keepdims=True)  # an absent class has a row of NaN
    if len(class_names) > MAX_MATRIX_CLASSES:
        _top_confusions(counts, fractions, class_names, path)
    else:
        _confusion_cells(counts, fractions, class_names, path)


def class_bars_figure(iou: Values, pixel_fraction: Values, class_names: Sequence[str], path: Path) -> None:
    """Write a bar chart of the IoU of each class, best on top, next to its fraction of the pixels on a log scale.

    Args:
        iou: IoU of each class (K,), NaN for an absent class.
        pixel_fraction: fraction of the true pixels of each class (K,), 0..1.
        class_names: names of the K classes.
        path: output file.
    """
    values, fractions = _array(iou), _array(pixel_fraction)
    order = np.argsort(np.nan_to_num(values, nan=-1.0), kind="stable")  # from the bottom up: absent classes first
    labels = [axis_label(class_names[k]) for k in order]
    with open_figure(path, 7.5 + label_inches(labels), 1.4 + 0.26 * len(labels)) as figure:
        left, right = figure.subplots(1, 2, sharey=True, gridspec_kw={"width_ratios": [3, 1]})
        _iou_bars(left, values[order], labels)
        _pixel_bars(right, fractions[order])
        for axes in (left, right):
            axes.grid(axis="x")
            axes.tick_params(axis="y", length=0)


def similarity_figure(layers: Sequence[tuple[str, float]], path: Path) -> None:
    """Write a bar for the name and CKA of each layer, the first on top; none for NaN."""
    names, values = [axis_label(name) for name, _ in layers], [value for _, value in layers]
    with open_figure(path, 6.0 + label_inches(names), 1.4 + 0.26 * len(layers)) as figure:
        axes = figure.subplots()
        bars = axes.barh(range(len(layers)), np.nan_to_num(values), color=BLUE, height=0.72)
        axes.bar_label(bars, [f" {value:.3f}" for value in values], fontsize=9)
        axes.set_yticks(range(len(layers)), names)
        axes.set(xlabel="linear CKA", title="pretrained and fine-tuned; 1 is unchanged", ylim=(len(layers) - 0.4, -0.6))
        axes.set_xlim(min(0, *values) - 0.02, 1.1)
        axes.grid(axis="x")


def _iou_bars(axes: Any, values: NDArray[np.float64], labels: Sequence[str]) -> None:
    rows = np.arange(len(labels))
    axes.barh(rows, np.nan_to_num(values), color=BLUE, height=0.72)
    for row, value in zip(rows, values, strict=True):
        text = "absent" if np.isnan(value) else f"{value:.3f}"
        axes.text(np.nan_to_num(value) + 0.01, row, text, va="center", fontsize=9, color=GRAY)
    if not np.isnan(values).all():
        axes.axvline(np.nanmean(values), color=ORANGE, linewidth=1.2, linestyle="--")
        axes.set_title(f"IoU per class (mean {np.nanmean(values):.3f})")
    axes.set(yticks=rows, xlim=(0, 1.1), ylim=(-0.6, len(labels) - 0.4), xticks=np.linspace(0, 1, 6))
    axes.set_yticklabels(labels)


def _pixel_bars(axes: Any, fractions: NDArray[np.float64]) -> None:
    axes.barh(np.arange(len(fractions)), np.maximum(fractions, 1e-9) * 100, color=GRAY, height=0.72)
    decades = 10.0 ** np.arange(np.floor(np.log10(min([*fractions[fractions > 0], 0.01]))), 1) * 100
    axes.set_xlim(decades[0] * 0.7, 140)
    axes.set(xscale="log", title="pixels (%)", xticks=decades)
    axes.set_xticklabels([f"{tick:g}" for tick in decades])
    axes.minorticks_off()


def _curves(rows: Sequence[Mapping[str, float]], series: Mapping[str, str], path: Path) -> None:
    best, score = _best_epoch(rows)
    has_rate = any("lr" in row for row in rows)
    with open_figure(path, 7.5, 5.0 if has_rate else 4.0) as figure:
        grid = figure.subplots(
            2 if has_rate else 1, 1, sharex=True, squeeze=False, height_ratios=[4, 1][: 1 + has_rate]
        )
        axes = grid[0, 0]
        for key, color in series.items():
            epochs, values = _series(rows, key)
            marker = "o" if len(epochs) <= 40 else None
            axes.plot(epochs, values, color=color, marker=marker, markersize=3.5, linewidth=1.8, label=key)
            if best is not None and best[0] in epochs:
                value = values[epochs.index(best[0])]
                axes.plot([best[0]], [value], "o", color=color, markersize=9, markeredgecolor="white", zorder=5)
        axes.set_title(" and ".join(series))
        if best is not None:
            axes.axvline(best[0], color=GRAY, linewidth=1, linestyle="--", zorder=0)
            axes.set_title(f"best {score} {best[1]:.4f} at epoch {best[0]:g}", loc="right", color=GRAY, fontsize=10)
        if len(series) > 1:
            axes.legend()
        if has_rate:
            epochs, values = _series(rows, "lr")
            grid[1, 0].plot(epochs, values, color=GRAY, marker="o", markersize=2.5, linewidth=1.5)
            grid[1, 0].set(ylabel="learning rate", ylim=(0, None))
        for each in grid[:, 0]:
            each.grid()
        grid[-1, 0].set_xlabel("epoch")
        grid[-1, 0].xaxis.get_major_locator().set_params(integer=True)


def _series(rows: Sequence[Mapping[str, float]], key: str) -> tuple[list[float], list[float]]:
    points = [(row["epoch"], row[key]) for row in rows if key in row]
    return [epoch for epoch, _ in points], [value for _, value in points]


def _best_epoch(rows: Sequence[Mapping[str, float]]) -> tuple[tuple[float, float] | None, str]:
    """Return the epoch and value of the highest score, the first of equal ones, and the name of the score."""
    key = next((f"val/{name}" for name in SCORES if any(f"val/{name}" in row for row in rows)), "")
    epochs, values = _series(rows, key)
    points = [(epoch, value) for epoch, value in zip(epochs, values, strict=True) if not np.isnan(value)]
    return max(points, key=lambda point: point[1], default=None), key


def _confusion_cells(
    counts: NDArray[np.int64], fractions: NDArray[np.float64], names: Sequence[str], path: Path
) -> None:
    classes = len(names)
    names = list(map(axis_label, names))
    side = 1.6 + (0.62 if classes <= MAX_ANNOTATED_CLASSES else 0.34) * max(classes, 3)
    label = label_inches(names)
    with open_figure(path, side + label + 1.2, side + 0.75 * label) as figure:  # x labels at 45 degrees
        axes = figure.subplots()
        axes.set_facecolor(LIGHT_GRAY)
        cells = axes.imshow(np.ma.masked_invalid(fractions), cmap="Blues", vmin=0, vmax=1)
        axes.set_xticks(range(classes), names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(classes), names)
        axes.set(xlabel="predicted class", ylabel="true class", title="confusion matrix (% of each true class)")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        bar = figure.colorbar(cells, ax=axes, fraction=0.046, pad=0.03, format=lambda value, _: f"{value:.0%}")
        bar.outline.set_visible(False)
        if classes > MAX_ANNOTATED_CLASSES:
            return
        for row, column in np.argwhere(counts > 0):
            color = "white" if fractions[row, column] > 0.55 else "#20242c"
            _cell_text(axes, _percent(fractions[row, column]), (column, row), offset=4, color=color, fontsize=9)
            _cell_text(
                axes, _compact(counts[row, column]), (column, row), offset=-8, color=color, fontsize=6.5, alpha=0.8
            )


def _cell_text(axes: Any, text: str, cell: tuple[float, float], offset: float, **style: Any) -> None:
    """Write text into the center of a cell, with a vertical offset in points."""
    axes.annotate(text, cell, (0, offset), textcoords="offset points", ha="center", va="center", **style)


def _top_confusions(
    counts: NDArray[np.int64], fractions: NDArray[np.float64], names: Sequence[str], path: Path
) -> None:
    """Draw bars of the confusions with the most pixels."""
    errors = counts * (1 - np.eye(len(counts), dtype=np.int64))
    largest = np.argsort(-errors, axis=None, kind="stable")[:MAX_CONFUSIONS]
    cells = [divmod(int(index), len(counts)) for index in largest]
    cells = [cell for cell in cells if errors[cell]][::-1]
    names = list(map(axis_label, names))
    with open_figure(path, 6.5 + 2 * label_inches(names), 1.4 + 0.28 * max(len(cells), 4)) as figure:
        axes = figure.subplots()
        percentages = np.array([errors[cell] for cell in cells]) / max(int(errors.sum()), 1) * 100
        axes.barh(range(len(cells)), percentages, color=ORANGE, height=0.72)
        for row, cell in enumerate(cells):
            text = f" {_percent(fractions[cell])} of {names[cell[0]]}"
            axes.text(percentages[row], row, text, va="center", fontsize=8.5, color=GRAY)
        axes.set_yticks(range(len(cells)), [f"{names[truth]} → {names[predicted]}" for truth, predicted in cells])
        axes.set(xlabel="% of all wrong pixels", title="largest confusions (true class → predicted class)")
        axes.set_xlim(0, 1.4 * max(percentages, default=1.0))  # leaves room for the text
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)


def _percent(fraction: float) -> str:
    return "<1%" if fraction < 0.01 else f"{fraction:.0%}"


def _compact(count: int) -> str:
    """Return a count in a few characters: 950, 1.2k, 34M."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.1f}{unit}" if count < 10 * size else f"{count / size:.0f}{unit}"
    return str(count)


def _array(values: Values) -> NDArray[np.float64]:
    return np.asarray(values.cpu() if isinstance(values, Tensor) else values, dtype=np.float64)


@contextmanager
def open_figure(path: Path, width: float, height: float) -> Iterator[Any]:
    """Yield an empty figure in our style, with width and height in inches, and write it to `path` at the end."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context({**STYLE, "font.family": font_families()}):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        figure.savefig(path, bbox_inches="tight", pad_inches=0.1)  # as large as it must be for all text
