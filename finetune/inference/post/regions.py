"""Steps that change connected areas of classes as a whole."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from finetune.data.masks.clean import absorb
from finetune.data.masks.components import Components, find_components
from finetune.data.polygons.class_map import is_background
from finetune.inference.output import Prediction
from finetune.io.messages import suggest


class RegionStep(ABC):
    """A step on areas whose pixels are connected over their four sides.

    Args:
        class_names: of the K classes.
        classes: names of the classes whose areas may change; None for all but the background.

    Raises:
        ValueError: a name that is not one of the classes.
    """

    def __init__(self, class_names: Sequence[str], classes: Sequence[str] | None = None) -> None:
        if unknown := [name for name in classes or () if name not in class_names]:
            raise ValueError(f"classes={classes}: there is no class '{unknown[0]}'. {suggest(unknown[0], class_names)}")
        names = [name for name in class_names if not is_background(name)] if classes is None else classes
        self.classes = [class_names.index(name) for name in names]
        self.background = next((index for index, name in enumerate(class_names) if is_background(name)), None)

    def clean(self, prediction: Prediction) -> Prediction:
        """Return class indices (H, W), or masks (K, H, W) of which each is a map of 0 and 1."""
        if prediction.ndim == 2:
            return self.clean_map(prediction, self.classes, self.background)
        cleaned = prediction.copy()
        for index in self.classes:
            cleaned[index] = self.clean_map(prediction[index], [1], 0)
        return cleaned

    @abstractmethod
    def clean_map(self, labels: Prediction, classes: Sequence[int], background: int | None) -> Prediction:
        """Return a label map (H, W) in which areas of the classes have changed."""


class MinSize(RegionStep):
    """Areas of less than `pixels` pixels take the class that most pixels around them have; see `RegionStep`."""

    def __init__(self, class_names: Sequence[str], pixels: int = 50, classes: Sequence[str] | None = None) -> None:
        super().__init__(class_names, classes)
        self.pixels = check_pixels(pixels)

    def clean_map(self, labels: Prediction, classes: Sequence[int], background: int | None) -> Prediction:
        """Remove small areas."""
        return absorb(labels, lambda found: (found.areas < self.pixels) & np.isin(found.labels, classes))


class LargestComponent(RegionStep):
    """All areas of a class but its largest take the class that most pixels around them have; see `RegionStep`."""

    def clean_map(self, labels: Prediction, classes: Sequence[int], background: int | None) -> Prediction:
        """Remove all areas but the largest; among equally large ones, the first by row stays."""
        return absorb(labels, lambda found: _is_smaller(found, classes))


class FillHoles(RegionStep):
    """Areas of the background that lie inside of an area of one class take that class; see `RegionStep`.

    Args:
        class_names: of the K classes.
        pixels: largest area that is filled; None fills all.
        classes: names of the classes whose holes are filled; None for all but the background.

    Raises:
        ValueError: see `RegionStep`.
    """

    def __init__(
        self, class_names: Sequence[str], pixels: int | None = None, classes: Sequence[str] | None = None
    ) -> None:
        super().__init__(class_names, classes)
        self.pixels = None if pixels is None else check_pixels(pixels)

    def clean_map(self, labels: Prediction, classes: Sequence[int], background: int | None) -> Prediction:
        """Fill holes."""
        if background is None:
            raise ValueError("fill_holes: no class is called background, so nothing is a hole. Use min_size instead.")
        found = find_components(labels)
        around = _only_neighbor(labels, found)
        is_hole = (found.labels == background) & np.isin(around, classes)
        if self.pixels is not None:
            is_hole &= found.areas <= self.pixels
        filled: Prediction = np.where(is_hole, around, found.labels).astype(np.uint8)[found.of_run][found.runs]
        return filled


def check_pixels(pixels: int) -> int:
    """Return a number of pixels; raise ValueError unless it is 1 or more."""
    if pixels < 1:
        raise ValueError(f"pixels={pixels}: expected 1 or more.")
    return pixels


def _is_smaller(found: Components, classes: Sequence[int]) -> NDArray[np.bool_]:
    """Return which components (C,) of the classes are not the largest of theirs."""
    is_smaller = np.isin(found.labels, classes)
    for label in classes:
        own = np.flatnonzero(found.labels == label)
        is_smaller[own[found.areas[own].argmax()] if len(own) else own] = False
    return is_smaller


def _only_neighbor(labels: Prediction, found: Components) -> NDArray[np.int16]:
    """Return the label around each component (C,); -1 if there are several, or the border of the image."""
    lowest, highest = np.full(len(found.labels), 256, np.int16), np.full(len(found.labels), -1, np.int16)
    values = np.pad(labels.astype(np.int16), 1, constant_values=-1)
    owners = found.of_run[found.runs]
    for neighbors in (values[:-2, 1:-1], values[2:, 1:-1], values[1:-1, :-2], values[1:-1, 2:]):
        differs = neighbors != labels
        np.minimum.at(lowest, owners[differs], neighbors[differs])
        np.maximum.at(highest, owners[differs], neighbors[differs])
    return np.where(lowest == highest, lowest, np.int16(-1))
