"""Timeline of a training: the learning rate of each layer group over the epochs."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.plots.figures import BLUE, GRAY, GREEN, LIGHT_GRAY, ORANGE, open_figure
from finetune.plots.text import axis_label

Rates = NDArray[np.float64]

MAX_WIDE_LANES = 20
DECADES = 4.0  # range of the color scale; the last steps of a schedule fall far below it
FROZEN: dict[str, Any] = {"facecolor": LIGHT_GRAY, "edgecolor": "#c3c8d0", "hatch": "////", "linewidth": 0.0}


def timeline_figure(
    names: Sequence[str],
    epochs: Sequence[float],
    rates: Rates,
    boundaries: Sequence[float],
    path: Path,
    title: str = "learning rate per layer group",
) -> None:
    """Write the planned or recorded learning rate of each group over a training, with frozen spans hatched.

    Each group has a lane, the first at the bottom. The color is the learning rate on a log scale, and the highest
    learning rate is written to the right. The upper axes show a curve for each group that trains; equal curves are
    drawn once, and of more than three different curves only the first and the last.

    Args:
        names: names of the G groups in the order of the model, from stem to head.
        epochs: positions of the S samples, ascending. A sample holds until the next one, and the last one for as long
            as the one before it.
        rates: learning rates (S, G), NaN where frozen.
        boundaries: epochs at which a new phase begins; those outside the samples are ignored.
        path: output file.
        title: title of the figure.

    Raises:
        ValueError: there are no samples, `rates` has the wrong shape, or `epochs` is not ascending.
    """
    rates = np.asarray(rates, dtype=np.float64)
    _check(names, epochs, rates)
    names = list(map(axis_label, names))
    edges = _edges(epochs)
    lanes_height = (0.34 if len(names) <= MAX_WIDE_LANES else 0.2) * len(names)
    with open_figure(path, 10, 3.2 + lanes_height) as figure:
        curves, lanes = figure.subplots(2, 1, sharex=True, height_ratios=[1.8, lanes_height])
        _draw_curves(curves, names, edges, rates)
        shades = _draw_lanes(lanes, names, edges, rates)
        _label_lanes(lanes, names, rates)
        # the y axis of the curves is also the axis of the color bar
        figure.colorbar(shades, cax=curves.inset_axes((1.012, 0, 0.02, 1))).outline.set_visible(False)
        _draw_phases(curves, lanes, edges, boundaries)
        curves.set_title(title, pad=22)  # above the names of the phases
        lanes.set(xlabel="epoch", xlim=(edges[0], edges[-1]))
        lanes.xaxis.get_major_locator().set_params(integer=True)


def _check(names: Sequence[str], epochs: Sequence[float], rates: Rates) -> None:
    if rates.shape != (len(epochs), len(names)) or not rates.size:
        raise ValueError(
            f"rates has the shape {rates.shape}, but there are {len(epochs)} epochs and {len(names)} names. "
            f"Give one row per sample and one column per group, and at least one of each."
        )
    if (decreases := np.flatnonzero(np.diff(epochs) < 0)).size:
        index = int(decreases[0])
        raise ValueError(f"epochs fall from {epochs[index]:g} to {epochs[index + 1]:g}. Sort the samples by epoch.")


def _edges(epochs: Sequence[float]) -> Rates:
    """Return the start of each sample and the end of the last one (S + 1,).

    >>> _edges([0, 1, 3]).tolist()
    [0.0, 1.0, 3.0, 5.0]
    """
    last = epochs[-1] - epochs[-2] if len(epochs) > 1 else 1.0
    return np.array([*epochs, epochs[-1] + last], dtype=np.float64)


def _curves(rates: Rates) -> dict[str, list[int]]:
    """Return the color of each curve and the groups that it represents.

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
    """Return the limits of the log scale, at least one decade apart, with a margin.

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
        values = np.where(rates[:, groups[0]] > 0, rates[:, groups[0]], np.nan)  # 0 is not on a log scale
        label = _label([names[group] for group in groups])
        handles.append(axes.stairs(values, edges, baseline=None, color=color, linewidth=1.8, label=label))
    axes.set(yscale="log", ylim=_limits(rates), ylabel="learning rate")
    axes.grid()
    axes.tick_params(axis="x", length=0)
    # at the height of the title
    axes.legend(handles=handles, loc="lower right", bbox_to_anchor=(1, 1.13), ncols=4, borderpad=0, borderaxespad=0)


def _label(names: Sequence[str]) -> str:
    """Return one label for groups with the same curve.

    >>> _label(["a"]), _label(["a", "b"]), _label(["a", "b", "c"])
    ('a', 'a, b', 'a and 2 more')
    """
    return ", ".join(names) if len(names) <= 2 else f"{names[0]} and {len(names) - 1} more"


def _draw_lanes(axes: Any, names: Sequence[str], edges: Rates, rates: Rates) -> Any:
    """Draw the learning rates as colors, and hatches where a group is frozen; return the colored cells."""
    from matplotlib.colors import LogNorm

    groups, (lowest, highest) = len(names), _limits(rates)
    axes.patch.set(**FROZEN)
    axes.spines[:].set_visible(False)
    shades = np.ma.masked_invalid(np.clip(rates.T, lowest, None))
    norm = LogNorm(lowest, highest)
    cells = axes.pcolormesh(edges, np.arange(groups + 1) - 0.5, shades, cmap="viridis", norm=norm)
    gap = 3 if groups <= MAX_WIDE_LANES else 1.5
    axes.hlines(np.arange(1, groups) - 0.5, edges[0], edges[-1], color="white", linewidth=gap)
    return cells


def _label_lanes(axes: Any, names: Sequence[str], rates: Rates) -> None:
    """Write names to the left, in the colors of their curves, and the highest learning rates to the right."""
    size = 9 if len(names) <= MAX_WIDE_LANES else 7.5
    axes.set_yticks(range(len(names)), names, fontsize=size)
    axes.tick_params(axis="y", length=0)
    for color, groups in _curves(rates).items():
        for group in groups:
            axes.get_yticklabels()[group].set_color(color)
    style = {"textcoords": "offset points", "color": GRAY, "fontsize": size}
    for lane, highest in enumerate(np.nan_to_num(rates).max(axis=0)):
        transform = axes.get_yaxis_transform()
        axes.annotate(_short(highest), (1, lane), xytext=(6, 0), xycoords=transform, va="center", **style)
    axes.annotate("highest", (1, 1), xytext=(6, 4), xycoords="axes fraction", **style)


def _short(rate: float) -> str:
    """Return a learning rate in a few characters.

    >>> _short(1e-3), _short(7.94e-5), _short(2.0), _short(0.0)
    ('1e-3', '7.9e-5', '2', '-')
    """
    mantissa, exponent = f"{rate:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}".removesuffix("e0") if rate else "-"


def _draw_phases(curves: Any, lanes: Any, edges: Rates, boundaries: Sequence[float]) -> None:
    """Draw a line through both axes at the start of each phase, and the numbers of the phases that are wide enough."""
    first, last = edges[0], edges[-1]
    inner = [boundary for boundary in sorted(set(boundaries)) if first < boundary < last]
    for boundary in inner:
        curves.axvline(boundary, color=GRAY, linewidth=1, linestyle="--")
        lanes.axvline(boundary, color="white", linewidth=1.2, linestyle="--")
    for middle, label in _phase_labels([first, *inner, last]):
        curves.annotate(
            label, (middle, 1), (0, 4), ("data", "axes fraction"), "offset points", ha="center", fontsize=9, color=GRAY
        )


def _phase_labels(bounds: Sequence[float]) -> Iterator[tuple[float, str]]:
    """Yield the middle and label of every phase that is wide enough for one; none for a single phase.

    >>> list(_phase_labels([0, 10, 11, 20]))
    [(5.0, 'phase 1'), (10.5, '2'), (15.5, 'phase 3')]
    """
    if len(bounds) == 2:
        return
    for number, (begin, end) in enumerate(pairwise(bounds), start=1):
        fraction = (end - begin) / (bounds[-1] - bounds[0])
        if fraction > 0.025:
            yield (begin + end) / 2, f"phase {number}" if fraction > 0.08 else str(number)
