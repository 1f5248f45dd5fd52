"""Images with labeled shapes, as records whose masks are drawn from the shapes."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from finetune.data.files import ImageFile
from finetune.data.images.formats import read_header
from finetune.data.options import check_ignore_index
from finetune.data.polygons.class_map import Classes, ClassMap, class_map
from finetune.data.polygons.shapes import Shape, paint
from finetune.data.records import DataError, Record, error_listing
from finetune.data.splitting.split_folders import folder_splits
from finetune.data.splitting.split_names import SPLITS
from finetune.data.stencil import Stencil, join
from finetune.data.window import Window


class LabeledObject(NamedTuple):
    """One object of an image.

    Attributes:
        label: what it is; None if its pixels are to be left out.
        parts: shapes that cover it together.
    """

    label: str | None
    parts: tuple[Shape, ...]


@dataclass(frozen=True)
class AnnotatedImage:
    """An image with its objects.

    Attributes:
        path: the image.
        file: the annotation file.
        objects: later ones are drawn over earlier ones.
        size: height and width for which the objects were drawn; None if the file does not say.
        split: "train", "val" or "test"; "" if the data has no split.
    """

    path: Path
    file: Path
    objects: tuple[LabeledObject, ...]
    size: tuple[int, int] | None = None
    split: str = ""


class Annotations(NamedTuple):
    """What annotation files hold: labels in the order that the format gives them, and images."""

    labels: Sequence[str]
    images: list[AnnotatedImage]


@dataclass(frozen=True, eq=False)
class DrawnMask:
    """A mask of class indices that is drawn when it is read.

    Attributes:
        image: file of the image, which gives the size.
        file: the annotation file.
        objects: class index, or value of ignored pixels, and shapes; later objects are drawn over earlier ones.
        background: class index of all other pixels.
        size: height and width for which the objects were drawn; None if it is not known.
    """

    image: Path
    file: Path
    objects: tuple[tuple[int, tuple[Shape, ...]], ...]
    background: int = 0
    size: tuple[int, int] | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """The annotation file."""
        return (self.file,)

    @property
    def description(self) -> str:
        """Text for messages."""
        return f"annotations of '{self.image.name}' in '{self.file}'"

    def read(self) -> Tensor:
        """Draw the mask as uint8 (H, W).

        Raises:
            DataError: the image cannot be opened or has another size than its annotations, or a shape is too complex.
        """
        height, width = read_header(self.image).upright_size
        return self.read_window(Window(0, 0, height, width))

    def read_window(self, window: Window) -> Tensor:
        """Draw a part of the mask as uint8 (height, width)."""
        size = self._checked_size()
        mask = np.full((window.height, window.width), self.background, dtype=np.uint8)
        for value, parts in self.objects:
            self._paint(mask, parts, value, (window.top, window.left), size)
        return torch.from_numpy(mask)

    def read_objects(self) -> tuple[Tensor, Iterator[tuple[int, Stencil]]]:
        """Return the mask, and the class index, or the value of ignored pixels, of each object with its pixels."""
        size = self._checked_size()
        with self._naming_itself():
            drawn = [(value, join([shape.window(*size) for shape in parts])) for value, parts in self.objects]
        mask = np.full(size, self.background, dtype=np.uint8)
        for value, stencil in drawn:
            mask[stencil.rows, stencil.columns][stencil.covered] = value
        return torch.from_numpy(mask), iter(drawn)

    def _paint(
        self,
        mask: npt.NDArray[np.uint8],
        parts: Sequence[Shape],
        value: int,
        corner: tuple[int, int],
        size: tuple[int, int],
    ) -> None:
        with self._naming_itself():
            for shape in parts:
                paint(mask, shape, value, corner, size)

    @contextmanager
    def _naming_itself(self) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            raise DataError(f"{self.description}: {error} Simplify the polygon, or remove it.") from error

    def _checked_size(self) -> tuple[int, int]:
        size = self.read_size()
        if self.size is not None and self.size != size:
            raise DataError(_size_text(self.image, self.file, size, self.size))
        return size

    def read_size(self) -> tuple[int, int]:
        """Return the height and width of the image."""
        return read_header(self.image, any_size=True).upright_size


def _size_text(image: Path, file: Path, size: tuple[int, int], drawn_for: tuple[int, int]) -> str:
    moves = "Annotate the image as it is, or bring it to that size."
    if size == drawn_for[::-1]:
        moves = "If the image carries an EXIF rotation, remove it, or annotate the image as it is shown."
    return (
        f"image '{image}' has {size[0]}x{size[1]} pixels (height x width), but its annotations in '{file}' are for "
        f"{drawn_for[0]}x{drawn_for[1]}. {moves}"
    )


class AnnotatedSource(ABC):
    """What sources of labeled shapes have in common; each reads its files in `read`.

    Args:
        root: folder of the data.
        classes: see `class_map`.
        ignored: labels of pixels that loss and scores leave out.
        ignore_index: label of these pixels in the masks.
    """

    def __init__(self, root: str | Path, classes: Classes, ignored: Sequence[str], ignore_index: int) -> None:
        if isinstance(ignored, str):
            raise ValueError(f"ignored={ignored}: expected a list of labels such as [{ignored}].")
        check_ignore_index(ignore_index)
        self.root = Path(root)
        self.classes = classes
        self.ignored = ignored
        self.ignore_index = ignore_index

    @abstractmethod
    def read(self) -> Annotations:
        """Read all annotation files.

        Raises:
            DataError: with every mistake found.
        """

    @cached_property
    def _annotations(self) -> Annotations:
        if not self.root.is_dir():
            raise DataError(f"'{self.root}' is not a folder. Set data.root to the folder of the data.")
        annotations = self.read()
        if not annotations.images:
            raise DataError(f"the annotations in '{self.root}' are for no image. Set data.root, or annotate images.")
        return annotations

    @cached_property
    def _map(self) -> ClassMap:
        labels = list(dict.fromkeys(self._annotations.labels))
        return class_map(labels, self.classes, list(self.ignored), self.ignore_index, f"'{self.root}'")

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes that the labels and the option `classes` give.

        Raises:
            DataError: as for `records`.
        """
        return self._map.names

    def records(self) -> list[Record]:
        """Return the records by split, then by name, which is the path of the image below the root.

        Raises:
            DataError: with every mistake found.
        """
        images = self._annotations.images
        if problems := _repeated(images):
            raise error_listing(f"'{self.root}' cannot be used as it is", problems)
        records = [self._record(image) for image in images]
        return sorted(records, key=lambda record: (("", *SPLITS).index(record.split), record.name))

    def _record(self, image: AnnotatedImage) -> Record:
        values = self._map.values
        objects = tuple(
            (self.ignore_index if label is None else values[label], parts)
            for label, parts in image.objects
            if label is None or label in values
        )
        target = DrawnMask(image.path, image.file, objects, self._map.background, image.size)
        return Record(image.path.relative_to(self.root).as_posix(), ImageFile(image.path), target, image.split)


def _repeated(images: Iterable[AnnotatedImage]) -> list[str]:
    first: dict[Path, AnnotatedImage] = {}
    repeated = [image for image in images if first.setdefault(image.path, image) is not image]
    return [
        f"image '{image.path}' is annotated twice, in '{first[image.path].file}'"
        + (f" and in '{image.file}'" if image.file != first[image.path].file else "")
        + (f" (as {first[image.path].split} and {image.split})" if image.split != first[image.path].split else "")
        + ". Keep one."
        for image in repeated
    ]


def labels_by_name(images: Iterable[AnnotatedImage]) -> list[str]:
    """Return the labels of the objects, in the order of their names."""
    return sorted({found.label for image in images for found in image.objects if found.label is not None})


def with_folder_splits(images: list[AnnotatedImage], root: Path) -> list[AnnotatedImage]:
    """Return images with the split that one of their folders is called after; see `folder_splits`."""
    splits = folder_splits([image.path for image in images], root)
    return [replace(image, split=split or image.split) for image, split in zip(images, splits, strict=True)]
