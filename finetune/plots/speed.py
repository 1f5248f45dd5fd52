"""The figure of what runs achieve and what they cost."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from finetune.plots.figures import BLUE, GRAY, GREEN, ORANGE, open_figure
from finetune.plots.text import axis_label

Point = tuple[str, float, float]


def latency_figure(forms: Mapping[str, Sequence[Point]], path: Path) -> None:
    """Write the IoU over the time of a prediction: a point for each model in each form, with its name at the fastest.

    Args:
        forms: form -> name, milliseconds of an image, and IoU of each model.
        path: output file.
    """
    fastest: dict[str, tuple[float, float]] = {}
    with open_figure(path, 7.5, 4.5) as figure:
        axes = figure.subplots()
        for index, (form, points) in enumerate(forms.items()):
            color, marker = (BLUE, ORANGE, GREEN)[index % 3], "os^Dv"[index % 5]
            axes.plot([x for _, x, _ in points], [y for *_, y in points], marker, color=color, markersize=7, label=form)
            for name, x, y in points:
                fastest[name] = min(fastest.get(name, (x, y)), (x, y))
        for name, place in fastest.items():
            axes.annotate(axis_label(name), place, (0, 8), textcoords="offset points", fontsize=9, color=GRAY)
        axes.set(xlabel="milliseconds an image", ylabel="IoU", title="IoU and latency", xlim=(0, None))
        axes.margins(0.15)
        axes.legend()
        axes.grid()
