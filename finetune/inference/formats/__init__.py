"""Formats of predictions: one table, and one file for each or for a few that are alike."""

from collections.abc import Mapping, Sequence

from finetune.inference.formats.colored import Color, Contours, Overlays
from finetune.inference.formats.format import ImageFormat, Predicted
from finetune.inference.formats.masks import Masks
from finetune.inference.formats.probabilities import Probabilities, ProbabilityImages
from finetune.io.messages import suggest

__all__ = ["PREDICTION_FORMATS", "ImageFormat", "Predicted", "check_formats"]

PREDICTION_FORMATS: Mapping[str, type[ImageFormat]] = {
    "masks": Masks,
    "color": Color,
    "overlays": Overlays,
    "contours": Contours,
    "probabilities": Probabilities,
    "probability_images": ProbabilityImages,
}


def check_formats(names: Sequence[str]) -> None:
    """Raise ValueError for formats that there are not."""
    if isinstance(names, str):
        raise ValueError(f"write={names}: expected a list, such as write=[{names}].")
    if unknown := [str(name) for name in names or () if name not in PREDICTION_FORMATS]:
        raise ValueError(f"write has no format '{unknown[0]}'. {suggest(unknown[0], PREDICTION_FORMATS)}")
