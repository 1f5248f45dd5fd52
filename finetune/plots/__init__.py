"""Figures: colored masks, rows of predictions, and the figures of a report."""

from finetune.plots.augmented import augmentation_figure
from finetune.plots.colors import colorize, overlay, palette
from finetune.plots.figures import class_bars_figure, confusion_figure, curves_figure
from finetune.plots.lr_curve import lr_curve_figure
from finetune.plots.panels import error_map, panel, preview
from finetune.plots.timeline import timeline_figure

__all__ = [
    "augmentation_figure",
    "class_bars_figure",
    "colorize",
    "confusion_figure",
    "curves_figure",
    "error_map",
    "lr_curve_figure",
    "overlay",
    "palette",
    "panel",
    "preview",
    "timeline_figure",
]
