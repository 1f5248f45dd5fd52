"""Targets as objects: what instance segmentation reads of targets that other tasks read as classes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from finetune.data.caching.decoding_settings import record_settings
from finetune.data.caching.facts import Fact
from finetune.data.caching.known_facts import whole_numbers
from finetune.data.files import MaskFile
from finetune.data.images.decode import DECODING
from finetune.data.masks.components import find_components, pixels_by_value
from finetune.data.masks.values import as_values
from finetune.data.polygons.class_map import is_background
from finetune.data.records import DataError, Record, Target
from finetune.data.stencil import Stencil
from finetune.data.tiles import TargetTile
from finetune.instances import IGNORED, Planes

LEAST_PIXELS = 9  # of an object, in an image and in what a crop has left of it: less looks like nothing
Grouping = Literal["files", "components", "ids"]


@runtime_checkable
class HasObjects(Protocol):
    """A target whose objects are known one by one."""

    def read_objects(self) -> tuple[Tensor, Iterator[tuple[int, Stencil]]]:
        """Return what `read` does, and of each object the value that its pixels have there, and the pixels.

        Objects may overlap.

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
        labels, objects = self._objects()
        planes, ignored, specks = Planes(*labels.shape), labels == self.ignore_index, 0
        for value, stencil in objects:
            is_speck = value not in (self.ignore_index, self.background) and int(stencil.covered.sum()) < LEAST_PIXELS
            specks += is_speck
            mask = torch.from_numpy(stencil.covered)
            if value == self.ignore_index or is_speck:
                ignored[stencil.rows, stencil.columns] |= mask
            elif value != self.background:
                planes.add(mask, value - (value > self.background), stencil.top, stencil.left)
        return planes.finish(ignored), specks

    def _objects(self) -> tuple[Tensor, Iterator[tuple[int, Stencil]]]:
        """Return the class of each pixel (H, W), and the class and the pixels of each object."""
        if self.grouping == "components":
            labels = self.target.read()
            return labels, component_objects(labels)
        if self.grouping == "ids":
            return self._objects_by_id()
        if not isinstance(self.target, HasObjects):
            raise DataError(
                f"{self.description} has classes, and does not tell objects apart. Set data.instances=components to "
                f"take each area of a class as an object, or data.instances=ids if its values number the objects."
            )
        return self.target.read_objects()

    def _objects_by_id(self) -> tuple[Tensor, Iterator[tuple[int, Stencil]]]:
        """Return the class of each pixel of a mask file, and the class and the pixels of each of its values.

        With a divisor, an area of a class without a number is a group whose objects are not told apart: it is ignored.
        """
        target = self.target
        if not isinstance(target, MaskFile):
            raise DataError(f"data.instances=ids needs mask files, and {target.description} is none. Leave it out.")
        labels, numbers = target.read_numbers()
        if target.divisor > 1:
            labels[torch.from_numpy(numbers < target.divisor) & (labels != self.background)] = self.ignore_index
        ignored = [value for value in as_values(target.ignore_index) if isinstance(value, int)]
        by_number = (each for each in pixels_by_value(numbers) if each[0] >= target.divisor and each[0] not in ignored)
        return labels, ((_class_at(labels, stencil), stencil) for _, stencil in by_number)


def _class_at(labels: Tensor, stencil: Stencil) -> int:
    """Return the class of a number by its first pixel: all of them have the same."""
    row, column = divmod(int(stencil.covered.argmax()), stencil.covered.shape[1])
    return int(labels[stencil.top + row, stencil.left + column])


def component_objects(labels: Tensor) -> Iterator[tuple[int, Stencil]]:
    """Yield the label and the pixels of each maximal area of one label (H, W), uint8, whose pixels touch by a side."""
    components = find_components(labels.numpy())
    for index, stencil in pixels_by_value(components.of_run[components.runs]):
        yield int(components.labels[index]), stencil


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
    by_number = [each for numbers in planes[::2].numpy() for each in pixels_by_value(numbers)]
    found = [stencil.covered for number, stencil in by_number if 0 < number < IGNORED]
    heights, widths = [covered.shape[0] for covered in found], [covered.shape[1] for covered in found]
    return ObjectSizes([int(covered.sum()) for covered in found], heights, widths, specks)


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
