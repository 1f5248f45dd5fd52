"""The interface of label formats: files that labeling tools and the data sources read, made from written masks."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from finetune.data.polygons.class_map import is_background
from finetune.data.polygons.outlines import Region, as_one_ring, simplify, trace
from finetune.data.polygons.shapes import Points
from finetune.data.stems import without_suffix
from finetune.inference.output import Prediction
from finetune.instances import ObjectCrop


@dataclass(frozen=True)
class LabeledImage:
    """An image with its prediction.

    Attributes:
        path: the image.
        name: its path below what was predicted, with its suffix.
        size: height and width.
        traced: the connected areas of all classes, or of all objects; the label is the class.
        tolerance: by which outlines may be simplified, pixels.
        objects: of the image; none where classes are predicted.
    """

    path: Path
    name: Path
    size: tuple[int, int]
    traced: Sequence[Region]
    tolerance: float = 0.0
    objects: Sequence[ObjectCrop] = ()

    @cached_property
    def regions(self) -> list[Region]:
        """The areas with simplified rings."""
        return [simplified(each, self.tolerance) for each in self.traced]


def simplified(region: Region, tolerance: float) -> Region:
    """Return an area with rings that were simplified by a tolerance in pixels."""
    return region._replace(rings=[simplify(ring, tolerance) for ring in region.rings])


def trace_classes(prediction: Prediction) -> list[Region]:
    """Return the connected areas of class indices (H, W), or of masks (K, H, W) of 0 and 1; the label is the class."""
    if prediction.ndim == 2:
        return trace(prediction)
    channels = [(index, region) for index, mask in enumerate(prediction) for region in trace(mask)]
    return [region._replace(label=index) for index, region in channels if region.label]


def trace_object(crop: ObjectCrop) -> list[Region]:
    """Return the connected areas of an object, in pixels of its image."""
    found = [region for region in trace(crop.mask.astype(np.uint8)) if region.label]
    corner = np.array([crop.left, crop.top], dtype=np.float64)
    return [each._replace(label=crop.label, rings=[ring + corner for ring in each.rings]) for each in found]


class LabelFormat(ABC):
    """Files of all images; the classes that mean the background are not written.

    Args:
        folder: of all predictions.
        class_names: of the K classes.

    Attributes:
        names: index -> name of the classes that are written.
        entries: of single images, to be written together.
    """

    def __init__(self, folder: Path, class_names: Sequence[str]) -> None:
        self.folder = folder
        self.names = {index: name for index, name in enumerate(class_names) if not is_background(name)}
        self.entries: list[Any] = []

    @abstractmethod
    def add(self, image: LabeledImage) -> None:
        """Take in an image; a format may write files of its own for it."""

    def own_file(self, image: LabeledImage, folder: str, suffix: str) -> Path | None:
        """Return the file of an image in a folder; None if it is there, as it may have been corrected."""
        name = without_suffix(image.name)
        path = self.folder / folder / name.with_name(name.name + suffix)
        return None if path.exists() else path

    def finish(self) -> None:  # noqa: B027  # formats whose files are those of single images have nothing left
        """Write the files of all images."""

    def polygons(self, image: LabeledImage) -> list[tuple[int, Region, Points]]:
        """Return the class, the region, and its corners (N, 2) as one ring, of each area that is written."""
        written = [region for region in image.regions if region.label in self.names]
        return [(region.label, region, as_one_ring(region.rings)) for region in written]


def numbers(points: Points | list[Any]) -> list[Any]:
    """Return numbers as lists, in which whole ones need no decimals, and others have four.

    >>> numbers(np.array([[1.0, 2.123456]]))
    [[1, 2.1235]]
    """
    return [numbers(each) if isinstance(each, list) else _short(each) for each in np.asarray(points).tolist()]


def _short(value: float) -> float:
    return int(value) if value == int(value) else round(value, 4)
