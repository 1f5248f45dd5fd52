"""Figures of a report: curves of a run, confusions, bars of classes.

Drawn on matplotlib's `Figure` directly: pyplot keeps global state, and would fight with a notebook's.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Values = Tensor | NDArray[Any] | Sequence[float]

BLUE, ORANGE, GREEN, GREY, PALE = "#0072b2", "#d55e00", "#009e73", "#6b7280", "#eceef1"
MOST_CELLS, MOST_COUNTS, TOP = 30, 15, 25
STYLE = {
    "font.size": 10,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "grid.color": PALE,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "savefig.dpi": 130,
}


def curves_figure(rows: Sequence[Mapping[str, float]], folder: Path) -> list[Path]:
    """Write `loss.png` and `iou.png`, each with the learning rate below and the epoch of the best IoU marked.

    Args:
        rows: one an epoch, as in `metrics.csv`: `epoch`, and any of `train/loss`, `val/loss`, `val/iou`, `lr`; an
            epoch without validation lacks the values of it.
        folder: exists already.

    Returns:
        The files written; a figure without any value is left out.
    """
    pictures = {
        "loss": {"train/loss": BLUE, "val/loss": ORANGE},
        "iou": {"val/iou": GREEN},
    }
    files = []
    for name, series in pictures.items():
        if any(key in row for key in series for row in rows):
            _curves(rows, series, folder / f"{name}.png")
            files.append(folder / f"{name}.png")
    return files


def confusion_figure(matrix: Tensor, class_names: Sequence[str], path: Path) -> None:
    """Write the confusion matrix as shares of each true class; beyond 30 classes, the largest confusions only.

    Args:
        matrix: counts (K, K), int64; rows are the truth.
        class_names: of the K classes.
        path: of the picture.
    """
    counts = matrix.cpu().numpy()
    with np.errstate(invalid="ignore"):
        shares = counts / counts.sum(axis=1, keepdims=True)  # a class that is never true has a row of NaN
    if len(class_names) > MOST_CELLS:
        _top_confusions(counts, shares, class_names, path)
    else:
        _confusion_cells(counts, shares, class_names, path)


def class_bars_figure(iou: Values, share: Values, class_names: Sequence[str], path: Path) -> None:
    """Write the IoU of each class as a bar, best on top, beside its share of the pixels on a log scale.

    Args:
        iou: (K,), NaN for an absent class.
        share: of the true pixels (K,), 0..1.
        class_names: of the K classes.
        path: of the picture.
    """
    values, shares = _array(iou), _array(share)
    order = np.argsort(np.nan_to_num(values, nan=-1.0), kind="stable")  # drawn upwards: absent ones first
    values, shares, places = values[order], shares[order], np.arange(len(order))
    labels = [class_names[k] for k in order]
    with open_figure(path, 8.5, 1.4 + 0.26 * len(labels)) as figure:
        left, right = figure.subplots(1, 2, sharey=True, gridspec_kw={"width_ratios": [3, 1]})
        left.barh(places, np.nan_to_num(values), color=BLUE, height=0.72)
        for place, value in zip(places, values, strict=True):
            text = "absent" if np.isnan(value) else f"{value:.3f}"
            left.text(np.nan_to_num(value) + 0.01, place, text, va="center", fontsize=9, color=GREY)
        if not np.isnan(values).all():
            left.axvline(np.nanmean(values), color=ORANGE, linewidth=1.2, linestyle="--")
            left.set_title(f"IoU of each class, mean {np.nanmean(values):.3f}")
        left.set(yticks=places, xlim=(0, 1.1), ylim=(-0.6, len(labels) - 0.4), xticks=np.linspace(0, 1, 6))
        left.set_yticklabels(labels)
        right.barh(places, np.maximum(shares, 1e-9) * 100, color=GREY, height=0.72)
        decades = 10.0 ** np.arange(np.floor(np.log10(min([*shares[shares > 0], 0.01]))), 1) * 100
        right.set_xlim(decades[0] * 0.7, 140)
        right.set(xscale="log", title="% of pixels", xticks=decades)
        right.set_xticklabels([f"{tick:g}" for tick in decades])
        right.minorticks_off()
        for axes in (left, right):
            axes.grid(axis="x")
            axes.tick_params(axis="y", length=0)


def _curves(rows: Sequence[Mapping[str, float]], series: Mapping[str, str], path: Path) -> None:
    best = _best_epoch(rows)
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
            axes.axvline(best[0], color=GREY, linewidth=1, linestyle="--", zorder=0)
            axes.set_title(f"best val/iou {best[1]:.4f} in epoch {best[0]:g}", loc="right", color=GREY, fontsize=10)
        if len(series) > 1:
            axes.legend()
        if has_rate:
            epochs, values = _series(rows, "lr")
            grid[1, 0].plot(epochs, values, color=GREY, marker="o", markersize=2.5, linewidth=1.5)
            grid[1, 0].set(ylabel="lr", ylim=(0, None))
        for each in grid[:, 0]:
            each.grid()
        grid[-1, 0].set_xlabel("epoch")
        grid[-1, 0].xaxis.get_major_locator().set_params(integer=True)


def _series(rows: Sequence[Mapping[str, float]], key: str) -> tuple[list[float], list[float]]:
    points = [(row["epoch"], row[key]) for row in rows if key in row]
    return [epoch for epoch, _ in points], [value for _, value in points]


def _best_epoch(rows: Sequence[Mapping[str, float]]) -> tuple[float, float] | None:
    """Epoch and value of the highest `val/iou`; the first of equals, as a checkpoint keeps it."""
    epochs, values = _series(rows, "val/iou")
    known = [(epoch, value) for epoch, value in zip(epochs, values, strict=True) if not np.isnan(value)]
    return max(known, key=lambda point: point[1], default=None)


def _confusion_cells(counts: NDArray[np.int64], shares: NDArray[np.float64], names: Sequence[str], path: Path) -> None:
    classes = len(names)
    side = 2.6 + (0.62 if classes <= MOST_COUNTS else 0.34) * max(classes, 3)
    with open_figure(path, side + 0.6, side) as figure:
        axes = figure.subplots()
        axes.set_facecolor(PALE)
        cells = axes.imshow(np.ma.masked_invalid(shares), cmap="Blues", vmin=0, vmax=1)
        axes.set_xticks(range(classes), names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(classes), names)
        axes.set(xlabel="prediction", ylabel="truth", title="share of each true class")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        bar = figure.colorbar(cells, ax=axes, fraction=0.046, pad=0.03, format=lambda share, _: f"{share:.0%}")
        bar.outline.set_visible(False)
        if classes > MOST_COUNTS:
            return
        for row, column in np.argwhere(counts > 0):
            dark = "white" if shares[row, column] > 0.55 else "#20242c"
            _note(axes, _percent(shares[row, column]), (column, row), rise=4, color=dark, fontsize=9)
            _note(axes, _compact(counts[row, column]), (column, row), rise=-8, color=dark, fontsize=6.5, alpha=0.8)


def _note(axes: Any, text: str, place: tuple[float, float], rise: float, **style: Any) -> None:
    """Text centerd on a place, raised by so many points."""
    axes.annotate(text, place, (0, rise), textcoords="offset points", ha="center", va="center", **style)


def _top_confusions(counts: NDArray[np.int64], shares: NDArray[np.float64], names: Sequence[str], path: Path) -> None:
    """Bars of the mistakes that cost the most pixels."""
    mistakes = counts * (1 - np.eye(len(counts), dtype=np.int64))
    worst = [divmod(int(cell), len(counts)) for cell in np.argsort(-mistakes, axis=None, kind="stable")[:TOP]]
    worst = [cell for cell in worst if mistakes[cell]][::-1]
    with open_figure(path, 8.5, 1.4 + 0.28 * max(len(worst), 4)) as figure:
        axes = figure.subplots()
        share_of_all = np.array([mistakes[cell] for cell in worst]) / max(int(mistakes.sum()), 1) * 100
        axes.barh(range(len(worst)), share_of_all, color=ORANGE, height=0.72)
        for place, cell in enumerate(worst):
            note = f" {_percent(shares[cell])} of {names[cell[0]]}"
            axes.text(share_of_all[place], place, note, va="center", fontsize=8.5, color=GREY)
        axes.set_yticks(range(len(worst)), [f"{names[truth]} → {names[guess]}" for truth, guess in worst])
        axes.set(xlabel="% of all wrong pixels", title="largest confusions, truth → prediction")
        axes.set_xlim(0, 1.4 * max(share_of_all, default=1.0))  # room for the notes
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)


def _percent(share: float) -> str:
    return "<1%" if share < 0.01 else f"{share:.0%}"


def _compact(count: int) -> str:
    """A count in a few characters: 950, 1.2k, 34M."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.1f}{unit}" if count < 10 * size else f"{count / size:.0f}{unit}"
    return str(count)


def _array(values: Values) -> NDArray[np.float64]:
    return np.asarray(values.cpu() if isinstance(values, Tensor) else values, dtype=np.float64)


@contextmanager
def open_figure(path: Path, width: float, height: float) -> Iterator[Any]:
    """An empty figure of that many inches in our style, written to `path` at the end."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        figure.savefig(path)
