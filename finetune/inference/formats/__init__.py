"""Formats of predictions: one table, and one file for each or for a few that are alike."""

from collections.abc import Mapping, Sequence
from math import inf

from finetune.inference.formats.areas import Areas
from finetune.inference.formats.coco import Coco
from finetune.inference.formats.colored import Color, Contours, Overlays
from finetune.inference.formats.cvat import Cvat
from finetune.inference.formats.format import ImageFormat, Predicted, VideoFormat
from finetune.inference.formats.geojson import GeoJson
from finetune.inference.formats.labelme import Labelme
from finetune.inference.formats.labels import LabeledImage, LabelFormat
from finetune.inference.formats.labelstudio import LabelStudio
from finetune.inference.formats.masks import Masks
from finetune.inference.formats.object_labels import ObjectCoco, ObjectIds, ObjectLabelme, ObjectTable
from finetune.inference.formats.objects import FoundObjects, ObjectFiles, ObjectOverlays
from finetune.inference.formats.probabilities import Probabilities, ProbabilityImages
from finetune.inference.formats.yolo import Yolo
from finetune.io.messages import suggest

__all__ = [
    "OBJECT_FORMATS",
    "PREDICTION_FORMATS",
    "FoundObjects",
    "ImageFormat",
    "LabelFormat",
    "LabeledImage",
    "ObjectFiles",
    "Predicted",
    "VideoFormat",
    "check_formats",
    "check_video_formats",
]

PREDICTION_FORMATS: Mapping[str, type[ImageFormat] | type[LabelFormat]] = {
    "masks": Masks,
    "color": Color,
    "overlays": Overlays,
    "contours": Contours,
    "probabilities": Probabilities,
    "probability_images": ProbabilityImages,
    "areas": Areas,
    "labelme": Labelme,
    "coco": Coco,
    "cvat": Cvat,
    "labelstudio": LabelStudio,
    "yolo": Yolo,
    "geojson": GeoJson,
}


OBJECT_FORMATS: Mapping[str, type[ObjectFiles] | type[LabelFormat]] = {
    "objects": ObjectFiles,
    "overlays": ObjectOverlays,
    "table": ObjectTable,
    "ids": ObjectIds,
    "labelme": ObjectLabelme,
    "coco": ObjectCoco,
    "cvat": Cvat,
    "labelstudio": LabelStudio,
    "yolo": Yolo,
    "geojson": GeoJson,
}


def check_formats(
    names: Sequence[str], tolerance: float = 0.0, formats: Mapping[str, object] = PREDICTION_FORMATS
) -> None:
    """Raise ValueError for formats that there are not, or a tolerance that is no number of pixels.

    Args:
        names: of the formats.
        tolerance: by which outlines may be simplified, pixels.
        formats: those of the model: `PREDICTION_FORMATS` or `OBJECT_FORMATS`.
    """
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not 0 <= tolerance < inf:
        raise ValueError(f"tolerance={tolerance}: expected a number of pixels, 0 or more.")
    if isinstance(names, str):
        raise ValueError(f"write={names}: expected a list, such as write=[{names}].")
    for name in map(str, names or ()):
        if name not in formats and name in (*PREDICTION_FORMATS, *OBJECT_FORMATS):
            kind = "finds objects" if formats is OBJECT_FORMATS else "classifies pixels"
            raise ValueError(f"the model {kind}, so write has no format '{name}'. It has {', '.join(formats)}.")
        if name not in formats:
            raise ValueError(f"write has no format '{name}'. {suggest(name, formats)}")


def check_video_formats(names: Sequence[str]) -> None:
    """Raise ValueError for formats that a video cannot be written in."""
    fit = [name for name, each in PREDICTION_FORMATS.items() if hasattr(each, "frames")]
    if unfit := [name for name in names if name not in fit]:
        raise ValueError(
            f"write={unfit[0]} is for images, but there are videos in the input, which can be written as "
            f"{', '.join(fit)}. Predict images and videos in two calls."
        )
