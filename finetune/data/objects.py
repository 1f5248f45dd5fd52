"""Targets as objects: what instance segmentation reads of targets that other tasks read as classes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from finetune.data.caching.decoding_settings import record_settings
from finetune.data.caching.facts import Fact
from finetune.data.caching.known_facts import whole_numbers
from finetune.data.files import MaskFile
from finetune.data.images.decode import DECODING
from finetune.data.masks.components import find_components
from finetune.data.masks.reading import mask_numbers, open_mask
from finetune.data.masks.values import as_values
from finetune.data.polygons.class_map import is_background
from finetune.data.records import DataError, Record, Target
from finetune.data.tiles import TargetTile
from finetune.instances import Planes, from_planes

LEAST_PIXELS = 9  # of an object, in an image and in what a crop has left of it: less looks like nothing
Grouping = Literal["files", "components", "ids"]


@runtime_checkable
class HasObjects(Protocol):
    """A target whose objects are known one by one."""

    def read_objects(self) -> Iterator[tuple[int, Tensor]]:
        """Yield the value that `read` gives the pixels of each object, and its mask, bool (H, W).

        Masks may overlap.

        Raises:
            DataError: the target cannot be decoded.
        """


@dataclass(frozen=True)
class ObjectTarget:
    """A target of class indices whose objects are told apart.

    Attributes:
        target: gives the class of each pixel.
        grouping: what an object is: `files` for what the files have one by one, `components` for areas of one class
            whose pixels touch, or `ids` for the pixels of one value in the mask file.
        background: class index of what is no object.
        ignore_index: label of the pixels that count for nothing.
    """

    target: Target
    grouping: Grouping = "files"
    background: int = 0
    ignore_index: int = 255

    @property
    def paths(self) -> tuple[Path, ...]:
        """Files of the target."""
        return self.target.paths

    @property
    def description(self) -> str:
        """Text for messages."""
        return self.target.description

    def read(self) -> Tensor:
        """Return the objects as planes (2L, H, W), uint8, in which classes skip the background; see `instances`.

        The pixels of specks, objects of fewer than `LEAST_PIXELS`, are ignored.
        """
        return self.read_counting()[0]

    def read_counting(self) -> tuple[Tensor, int]:
        """Return the planes of `read`, and the number of specks."""
        labels = self.target.read()
        planes, ignored, specks = Planes(*labels.shape), labels == self.ignore_index, 0
        for value, mask in self._objects(labels):
            is_speck = value not in (self.ignore_index, self.background) and int(mask.sum()) < LEAST_PIXELS
            specks += is_speck
            if value == self.ignore_index or is_speck:
                ignored |= mask
            elif value != self.background:
                planes.add(mask, value - (value > self.background))
        return planes.finish(ignored), specks

    def _objects(self, labels: Tensor) -> Iterator[tuple[int, Tensor]]:
        if self.grouping == "components":
            return component_objects(labels)
        if self.grouping == "ids":
            return self._objects_by_id(labels)
        if not isinstance(self.target, HasObjects):
            raise DataError(
                f"{self.description} has classes, and does not tell objects apart. Set data.instances=components to "
                f"take each area of a class as an object, or data.instances=ids if its values number the objects."
            )
        return self.target.read_objects()

    def _objects_by_id(self, labels: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Yield the class and the mask of the pixels of each value in a mask file, with their class (H, W).

        With a divisor, an area of a class without a number is a group whose objects are not told apart: it is ignored.
        """
        target = self.target
        if not isinstance(target, MaskFile):
            raise DataError(f"data.instances=ids needs mask files, and {target.description} is none. Leave it out.")
        numbers = np.asarray(mask_numbers(open_mask(target.path), target.path)).astype(np.int64)
        ignored = [value for value in as_values(target.ignore_index) if isinstance(value, int)]
        for number in np.unique(numbers).tolist():
            if number >= target.divisor and number not in ignored:
                mask = torch.from_numpy(numbers == number)
                yield int(labels[mask][0]), mask
        if target.divisor > 1:
            yield self.ignore_index, torch.from_numpy(numbers < target.divisor) & (labels != self.background)


def component_objects(labels: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield the label and the mask of each maximal area of one label (H, W), uint8, whose pixels touch by a side."""
    components = find_components(labels.numpy())
    of_pixel = components.of_run[components.runs]
    for index, label in enumerate(components.labels.tolist()):
        yield label, torch.from_numpy(of_pixel == index)


def with_objects(record: Record, grouping: Grouping, background: int, ignore_index: int) -> Record:
    """Return a record, or a tile of one, whose target is read as objects."""
    target = record.target
    if isinstance(target, TargetTile):
        whole = ObjectTarget(target.whole, grouping, background, ignore_index)
        return replace(record, target=replace(target, whole=whole))
    return (
        record if target is None else replace(record, target=ObjectTarget(target, grouping, background, ignore_index))
    )


def background_index(class_names: Sequence[str]) -> int:
    """Return the index of the class that is called background, or of the first if none is.

    >>> background_index(["cell", "background"]), background_index(["outside", "cell"])
    (1, 0)
    """
    return next((index for index, name in enumerate(class_names) if is_background(name)), 0)


class ObjectSizes(NamedTuple):
    """Area in pixels, and height and width of the box, of each object of one image; and its number of specks."""

    areas: list[int]
    heights: list[int]
    widths: list[int]
    specks: int = 0


def object_sizes(record: Record) -> ObjectSizes:
    """Return the sizes of the objects of a record from `with_objects`.

    Raises:
        DataError: its target cannot be decoded, or does not tell objects apart.
    """
    assert record.target is not None  # records without a target have been refused
    target = record.target
    planes, specks = target.read_counting() if isinstance(target, ObjectTarget) else (target.read(), 0)
    objects = from_planes(planes)
    left, top, right, bottom = objects.boxes.int().T
    areas = objects.masks.flatten(1).sum(1).tolist()
    return ObjectSizes(areas, (bottom - top).tolist(), (right - left).tolist(), specks)


def _from_json(record: Record, plain: Any) -> ObjectSizes:
    areas, heights, widths = (list(whole_numbers(numbers)) for numbers in plain[:3])
    (specks,) = whole_numbers(plain[3:])
    if not len(areas) == len(heights) == len(widths):
        raise ValueError("expected three numbers for each object")
    return ObjectSizes(areas, heights, widths, specks)


object_sizes_fact: Fact[Record, ObjectSizes] = Fact(
    f"object sizes 1, decoding {DECODING}",
    lambda record: record.paths if record.image.paths else (),
    lambda record: record_settings(record, 0),
    list,
    _from_json,
)
