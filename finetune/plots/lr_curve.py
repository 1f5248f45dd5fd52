"""The picture of a learning-rate search: loss over learning rate, with the suggestions marked."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from finetune.plots.figures import BLUE, GREEN, GREY, ORANGE, open_figure

HUES = (ORANGE, GREEN, "#cc79a7", "#56b4e9")


def lr_curve_figure(
    rates: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    suggestions: Mapping[str, float],
    path: Path,
    chosen: float | None = None,
) -> None:
    """Write the losses over the learning rate, on a log scale; where the loss bursts, it leaves the picture.

    Args:
        rates: the N learning rates, ascending.
        losses: of one batch each.
        smoothed: running mean of the losses.
        suggestions: rule -> learning rate; empty where the curve allows none.
        path: of the picture.
        chosen: the rate that is taken, named in the title.

    Raises:
        ValueError: nothing to draw, or values that are not one for each rate.
    """
    if not len(rates) or not len(rates) == len(losses) == len(smoothed):
        raise ValueError(
            f"there are {len(rates)} learning rates, {len(losses)} losses and {len(smoothed)} smoothed ones; "
            f"give as many of each, and at least one."
        )
    with open_figure(path, 7.5, 4.2) as figure:
        axes = figure.subplots()
        axes.plot(rates, losses, ".", color=GREY, alpha=0.45, markersize=4, label="loss of a batch")
        axes.plot(rates, smoothed, color=BLUE, linewidth=1.8, label="running mean")
        for hue, (rule, rate) in zip(HUES, suggestions.items(), strict=False):
            height = float(np.interp(np.log(rate), np.log(rates), smoothed))
            axes.axvline(rate, color=hue, linewidth=1.2, linestyle="--", zorder=0)
            axes.plot(
                [rate], [height], "o", color=hue, markersize=8, markeredgecolor="white", label=f"{rule} {rate:.1e}"
            )
        axes.set(xscale="log", xlabel="learning rate", ylabel="loss", ylim=_span(losses, smoothed))
        axes.set_title("learning-rate search" if chosen is None else f"learning-rate search: {chosen:.1e}")
        axes.legend()
        axes.grid()


def _span(losses: Sequence[float], smoothed: Sequence[float]) -> tuple[float, float]:
    """From just below the lowest loss to just above the highest before the running mean turns."""
    turn = int(np.argmin(smoothed)) + 1
    bottom, top = min(*losses, *smoothed), max(*losses[:turn], *smoothed[:turn])
    margin = 0.1 * (top - bottom) or 1.0
    return bottom - margin, top + margin
