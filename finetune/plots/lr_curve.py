"""Figure of a learning-rate search: loss over learning rate, with the suggestions marked."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from finetune.plots.figures import BLUE, GRAY, GREEN, ORANGE, open_figure

MARKER_COLORS = (ORANGE, GREEN, "#cc79a7", "#56b4e9")


def lr_curve_figure(
    rates: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    suggestions: Mapping[str, float],
    path: Path,
    chosen: float | None = None,
) -> None:
    """Write the loss over the learning rate, on a log scale; the divergence of the loss is cut off.

    Args:
        rates: N learning rates, ascending.
        losses: loss at each learning rate (N).
        smoothed: running mean of the losses (N).
        suggestions: suggested learning rate of each rule; empty if there are none.
        path: output file.
        chosen: selected learning rate, shown in the title.

    Raises:
        ValueError: the inputs are empty or differ in length.
    """
    if not len(rates) or not len(rates) == len(losses) == len(smoothed):
        raise ValueError(
            f"there are {len(rates)} learning rates, {len(losses)} losses and {len(smoothed)} smoothed losses; "
            f"give the same number of each, and at least one."
        )
    with open_figure(path, 7.5, 4.2) as figure:
        axes = figure.subplots()
        axes.plot(rates, losses, ".", color=GRAY, alpha=0.45, markersize=4, label="loss per step")
        axes.plot(rates, smoothed, color=BLUE, linewidth=1.8, label="running mean")
        for color, (rule, rate) in zip(MARKER_COLORS, suggestions.items(), strict=False):
            height = float(np.interp(np.log(rate), np.log(rates), smoothed))
            axes.axvline(rate, color=color, linewidth=1.2, linestyle="--", zorder=0)
            axes.plot(
                [rate], [height], "o", color=color, markersize=8, markeredgecolor="white", label=f"{rule} {rate:.1e}"
            )
        axes.set(xscale="log", xlabel="learning rate", ylabel="loss", ylim=_loss_limits(losses, smoothed))
        axes.set_title("learning-rate search" if chosen is None else f"learning-rate search (selected {chosen:.1e})")
        axes.legend()
        axes.grid()


def _loss_limits(losses: Sequence[float], smoothed: Sequence[float]) -> tuple[float, float]:
    """Return limits from just below the lowest loss to just above the highest one before the running mean rises."""
    end = int(np.argmin(smoothed)) + 1
    bottom, top = min(*losses, *smoothed), max(*losses[:end], *smoothed[:end])
    margin = 0.1 * (top - bottom) or 1.0
    return bottom - margin, top + margin
