"""The timeline of a training: which part of the model learns when, and how fast."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.plots.figures import BLUE, GREEN, GREY, ORANGE, PALE, open_figure

Rates = NDArray[np.float64]

MOST_ROOMY = 20
DECADES = 4.0  # of learning rates that the colors tell apart; a schedule's last steps fall far below
FROZEN: dict[str, Any] = {"facecolor": PALE, "edgecolor": "#c3c8d0", "hatch": "////", "linewidth": 0.0}


def timeline_figure(
    names: Sequence[str],
    epochs: Sequence[float],
    rates: Rates,
    boundaries: Sequence[float],
    path: Path,
    title: str = "learning rate of each group",
) -> None:
    """Write the learning rate of every group over a training, planned or recorded, with frozen spans hatched.

    Each group is a lane, the first at the bottom; its color is the learning rate on a log scale, and its highest one
    stands beside it. Above is the curve of every group that trains, equal ones as one, or of the first and
    the last where there are more than three.

    Args:
        names: of the G groups in the order of the model, stem first and head last.
        epochs: of the S samples, ascending; a sample holds until the next, the last for as long as the one before.
        rates: learning rates (S, G), NaN where frozen.
        boundaries: epochs at which a new phase begins; the first and those outside the samples are left out.
        path: of the picture.
        title: of the picture.

    Raises:
        ValueError: nothing to draw, rates of another shape, or epochs that go back.
    """
    rates = np.asarray(rates, dtype=np.float64)
    _check(names, epochs, rates)
    edges = _edges(epochs)
    lanes_height = (0.34 if len(names) <= MOST_ROOMY else 0.2) * len(names)
    with open_figure(path, 10, 3.2 + lanes_height) as figure:
        curves, lanes = figure.subplots(2, 1, sharex=True, height_ratios=[1.8, lanes_height])
        _draw_curves(curves, names, edges, rates)
        shades = _draw_lanes(lanes, names, edges, rates)
        _label_lanes(lanes, names, rates)
        # the axis of the curves is that of the colors, too
        figure.colorbar(shades, cax=curves.inset_axes((1.012, 0, 0.02, 1))).outline.set_visible(False)
        _draw_phases(curves, lanes, edges, boundaries)
        curves.set_title(title, pad=22)  # above the names of the phases
        lanes.set(xlabel="epoch", xlim=(edges[0], edges[-1]))
        lanes.xaxis.get_major_locator().set_params(integer=True)


def _check(names: Sequence[str], epochs: Sequence[float], rates: Rates) -> None:
    if rates.shape != (len(epochs), len(names)) or not rates.size:
        raise ValueError(
            f"rates have the shape {rates.shape}, but there are {len(epochs)} epochs and {len(names)} names. "
            f"Give one row a sample and one column a group, at least one of each."
        )
    if (backwards := np.flatnonzero(np.diff(epochs) < 0)).size:
        place = int(backwards[0])
        raise ValueError(f"epochs go back from {epochs[place]:g} to {epochs[place + 1]:g}. Sort the samples by epoch.")


def _edges(epochs: Sequence[float]) -> Rates:
    """Where each sample begins, and where the last one ends: (S + 1,).

    >>> _edges([0, 1, 3]).tolist()
    [0.0, 1.0, 3.0, 5.0]
    """
    last = epochs[-1] - epochs[-2] if len(epochs) > 1 else 1.0
    return np.array([*epochs, epochs[-1] + last], dtype=np.float64)


def _curves(rates: Rates) -> dict[str, list[int]]:
    """Color of each curve and the groups that it stands for: those that train, equal ones as one.

    >>> _curves(np.array([[np.nan, 1e-4, 1e-3, 1e-3]]))
    {'#0072b2': [1], '#009e73': [2, 3]}
    """
    equal: dict[bytes, list[int]] = {}
    for group in np.flatnonzero((rates > 0).any(axis=0)):
        equal.setdefault(rates[:, group].tobytes(), []).append(int(group))
    curves = list(equal.values())
    if len(curves) <= 3:
        return dict(zip((BLUE, GREEN, ORANGE), curves, strict=False))
    return {BLUE: curves[0], ORANGE: curves[-1]}


def _limits(rates: Rates) -> tuple[float, float]:
    """Lowest and highest learning rate of the log scale: at least one decade apart, with a margin.

    >>> "{:.1e} {:.1e}".format(*_limits(np.array([[np.nan, 0.0, 1e-9, 1e-3]])))
    '6.7e-08 1.5e-03'
    >>> "{:.1e} {:.1e}".format(*_limits(np.array([[np.nan]])))
    '6.7e-02 1.5e+00'
    """
    positive = rates[rates > 0]
    highest = float(positive.max(initial=0.0)) or 1.0
    lowest = max(float(positive.min(initial=highest)), highest / 10**DECADES)
    return min(lowest, highest / 10) / 1.5, highest * 1.5


def _draw_curves(axes: Any, names: Sequence[str], edges: Rates, rates: Rates) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(**FROZEN, label="frozen")] if np.isnan(rates).any() else []
    for color, groups in _curves(rates).items():
        values = np.where(rates[:, groups[0]] > 0, rates[:, groups[0]], np.nan)  # a log scale has no zero
        label = _label([names[group] for group in groups])
        handles.append(axes.stairs(values, edges, baseline=None, color=color, linewidth=1.8, label=label))
    axes.set(yscale="log", ylim=_limits(rates), ylabel="learning rate")
    axes.grid()
    axes.tick_params(axis="x", length=0)
    # at the height of the title
    axes.legend(handles=handles, loc="lower right", bbox_to_anchor=(1, 1.13), ncols=4, borderpad=0, borderaxespad=0)


def _label(names: Sequence[str]) -> str:
    """One label for groups with the same curve.

    >>> _label(["a"]), _label(["a", "b"]), _label(["a", "b", "c"])
    ('a', 'a, b', 'a and 2 more')
    """
    return ", ".join(names) if len(names) <= 2 else f"{names[0]} and {len(names) - 1} more"


def _draw_lanes(axes: Any, names: Sequence[str], edges: Rates, rates: Rates) -> Any:
    """Shades of the learning rates, and hatches wherever there is none."""
    from matplotlib.colors import LogNorm

    groups, (lowest, highest) = len(names), _limits(rates)
    axes.patch.set(**FROZEN)
    axes.spines[:].set_visible(False)
    shades = np.ma.masked_invalid(np.clip(rates.T, lowest, None))
    norm = LogNorm(lowest, highest)
    cells = axes.pcolormesh(edges, np.arange(groups + 1) - 0.5, shades, cmap="viridis", norm=norm)
    gap = 3 if groups <= MOST_ROOMY else 1.5
    axes.hlines(np.arange(1, groups) - 0.5, edges[0], edges[-1], color="white", linewidth=gap)
    return cells


def _label_lanes(axes: Any, names: Sequence[str], rates: Rates) -> None:
    """Names to the left in the colors of their curves, highest learning rates to the right."""
    size = 9 if len(names) <= MOST_ROOMY else 7.5
    axes.set_yticks(range(len(names)), names, fontsize=size)
    axes.tick_params(axis="y", length=0)
    for color, groups in _curves(rates).items():
        for group in groups:
            axes.get_yticklabels()[group].set_color(color)
    style = {"textcoords": "offset points", "color": GREY, "fontsize": size}
    for lane, highest in enumerate(np.nan_to_num(rates).max(axis=0)):
        place = axes.get_yaxis_transform()
        axes.annotate(_short(highest), (1, lane), xytext=(6, 0), xycoords=place, va="center", **style)
    axes.annotate("highest", (1, 1), xytext=(6, 4), xycoords="axes fraction", **style)


def _short(rate: float) -> str:
    """A learning rate in a few characters.

    >>> _short(1e-3), _short(7.94e-5), _short(2.0), _short(0.0)
    ('1e-3', '7.9e-5', '2', '-')
    """
    mantissa, exponent = f"{rate:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}".removesuffix("e0") if rate else "-"


def _draw_phases(curves: Any, lanes: Any, edges: Rates, boundaries: Sequence[float]) -> None:
    """A line through both axes where a phase begins, and the phases' numbers on top where there is room."""
    first, last = edges[0], edges[-1]
    inner = [place for place in sorted(set(boundaries)) if first < place < last]
    for place in inner:
        curves.axvline(place, color=GREY, linewidth=1, linestyle="--")
        lanes.axvline(place, color="white", linewidth=1.2, linestyle="--")
    for middle, label in _phase_labels([first, *inner, last]):
        curves.annotate(
            label, (middle, 1), (0, 4), ("data", "axes fraction"), "offset points", ha="center", fontsize=9, color=GREY
        )


def _phase_labels(bounds: Sequence[float]) -> Iterator[tuple[float, str]]:
    """Middle and label of every phase that is wide enough for one; none for a single phase.

    >>> list(_phase_labels([0, 10, 11, 20]))
    [(5.0, 'phase 1'), (10.5, '2'), (15.5, 'phase 3')]
    """
    if len(bounds) == 2:
        return
    for number, (begin, end) in enumerate(pairwise(bounds), start=1):
        share = (end - begin) / (bounds[-1] - bounds[0])
        if share > 0.025:
            yield (begin + end) / 2, f"phase {number}" if share > 0.08 else str(number)
