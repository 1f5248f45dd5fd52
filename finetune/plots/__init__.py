"""Pictures: masks in colour, rows of predictions, and the figures of a report."""

from finetune.plots.colours import colourise, overlay, palette
from finetune.plots.figures import class_bars_figure, confusion_figure, curves_figure
from finetune.plots.panels import error_map, panel, preview

__all__ = [
    "class_bars_figure",
    "colourise",
    "confusion_figure",
    "curves_figure",
    "error_map",
    "overlay",
    "palette",
    "panel",
    "preview",
]
