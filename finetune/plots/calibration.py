"""Figures of probabilities: how often they are right, and the scores at each threshold."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from finetune.plots.colors import palette
from finetune.plots.figures import BLUE, GRAY, GREEN, ORANGE, open_figure
from finetune.plots.text import axis_label

MOST_NAMED = 12  # curves with an entry in the legend


def reliability_figure(curve: Mapping[str, Tensor], title: str, path: Path) -> None:
    """Write the accuracy over the confidence, above the share of the pixels with each confidence.

    Args:
        curve: `confidence`, `accuracy` and `pixel_share` of N equal bins from 0 to 1; NaN for those of an empty bin.
        title: of the figure.
        path: output file.
    """
    edges = np.linspace(0, 1, len(curve["accuracy"]) + 1)
    with open_figure(path, 5.4, 6.0) as figure:
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
        top.plot([0, 1], [0, 1], color=GRAY, linewidth=1, linestyle="--", label="right as often as confident")
        top.stairs(curve["accuracy"].nan_to_num(0).numpy(), edges, fill=True, color=BLUE, alpha=0.2)
        top.plot(curve["confidence"], curve["accuracy"], "o-", color=BLUE, markersize=4, label="model")
        top.set(ylabel="share of right pixels", xlim=(0, 1), ylim=(0, 1.02), title=title)
        top.legend(loc="upper left")
        bottom.stairs(curve["pixel_share"].numpy() * 100, edges, fill=True, color=GRAY)
        bottom.set(xlabel="confidence", ylabel="pixels (%)")
        for axes in (top, bottom):
            axes.grid()


def thresholds_figure(scores: Mapping[str, Tensor], best: Sequence[float], classes: Sequence[str], path: Path) -> None:
    """Write the scores over the threshold of one class, or the IoU of each of several; the best threshold is marked.

    Args:
        scores: name -> score (G, N) at thresholds from 0 to 1.
        best: threshold of each class (G).
        classes: names of the G classes.
        path: output file.
    """
    if len(classes) == 1:
        labels = {"precision": "precision", "recall": "recall", "f1": "F1", "iou": "IoU"}
        curves, colors = [(label, scores[name][0]) for name, label in labels.items()], [GRAY, ORANGE, GREEN, BLUE]
    else:
        curves = list(zip(map(axis_label, classes), scores["iou"], strict=True))
        colors = ["#{:02x}{:02x}{:02x}".format(*color) for color in palette(len(classes))]
    with open_figure(path, 7.5, 4.2) as figure:
        axes = figure.subplots()
        for (name, values), color in zip(curves, colors, strict=True):
            axes.plot(np.arange(len(values)) / len(values), values, color=color, linewidth=1.6, label=name)
        for threshold, iou in zip(best, scores["iou"], strict=True):
            axes.plot([threshold], [iou[round(threshold * len(iou))]], "o", color=BLUE, markeredgecolor="white")
        title = f"scores of {axis_label(classes[0])}" if len(classes) == 1 else "IoU per class"
        axes.set(xlabel="threshold of the probability", xlim=(0, 1), ylim=(0, 1.02), title=f"{title}, best IoU marked")
        if len(curves) <= MOST_NAMED:
            axes.legend(axes.lines[: len(curves)], [name for name, _ in curves])  # or those with a first _ are left out
        axes.grid()
