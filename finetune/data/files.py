"""Images and targets in files of their own."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from finetune.data.images.formats import read_header
from finetune.data.images.reading import read_image
from finetune.data.images.value_range import ValueRange
from finetune.data.masks.contents import MaskContents, read_contents
from finetune.data.masks.reading import decode_mask, mask_numbers, mask_size, open_mask, read_binary_mask, read_mask
from finetune.data.masks.values import IgnoredValues, MaskValues
from finetune.data.records import DataError
from finetune.data.reduction import reduce_image, reduced_size
from finetune.data.stencil import Stencil
from finetune.data.window import Window

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"),
    *(".gif", ".jp2", ".pgm", ".ppm", ".npy", ".dcm", ".nii", ".nii.gz"),
)
PHOTO_SUFFIXES = (".jpg", ".jpeg")  # of what is no mask, next to files with other endings
MASK_SUFFIXES = (
    *(".png", ".bmp", ".tif", ".tiff", ".gif", ".webp", ".jpg", ".jpeg"),
    *(".npy", ".mat", ".nii", ".nii.gz"),
)


# what cameras and telephones write, and nothing here decodes
UNREAD_SUFFIXES = (".heic", ".heif", ".avif", ".dng", ".cr2", ".cr3", ".nef", ".arw")


def unread_images(folder: Path) -> str:
    """Return a line about the images of a folder in formats that are not read; "" if there are none."""
    paths = files_below(folder, UNREAD_SUFFIXES) if folder.is_dir() else []
    endings = ", ".join(sorted({path.suffix.lower() for path in paths}))
    return (
        f"{len(paths):,} images in '{folder}' are left out, as files ending in {endings} are not read, such as "
        f"{paths[0].name}. Save them as JPEG or TIFF."
        if paths
        else ""
    )


def files_below(folder: Path, suffixes: Sequence[str], deep: bool = True) -> list[Path]:
    """Return the visible files with one of the suffixes, sorted by path; links to folders are followed.

    Hidden are files and folders whose name starts with a dot, such as `.ipynb_checkpoints`.

    Args:
        folder: to search.
        suffixes: in lower case, such as `.png`.
        deep: whether to search its sub-folders too.
    """
    found, entered = [], set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        # sorted, as the first link or folder to a place decides what its files are called
        folders[:] = [] if real in entered or not deep else sorted(name for name in folders if name[0] != ".")
        if real not in entered:  # a link may lead back
            found += [Path(parent, name) for name in files if name[0] != "." and name.lower().endswith(tuple(suffixes))]
        entered.add(real)
    return sorted(path for path in found if path.is_file())


@dataclass(frozen=True)
class ImageFile:
    """An image file; see `read_image` for its formats.

    Attributes:
        path: the file.
        value_range: the values that become black and white in files of more than 8 bit.
    """

    path: Path
    value_range: ValueRange | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """The file."""
        return (self.path,)

    @property
    def description(self) -> str:
        """Text for messages."""
        return f"image '{self.path}'"

    def read(self, channels: int = 3) -> Tensor:
        """Decode the file as uint8 (channels, H, W)."""
        return read_image(self.path, channels, self.value_range)

    def read_reduced(self, factor: int, channels: int = 3) -> Tensor:
        """Decode the file at a reduced size, as uint8 (channels, h, w); a JPEG takes a fraction of the time."""
        image = read_image(self.path, channels, self.value_range, factor=factor)
        return image if image.shape[-2:] == reduced_size(self.read_size(), factor) else reduce_image(image, factor)

    def read_window(self, window: Window, channels: int = 3) -> Tensor:
        """Decode a part of the file as uint8 (channels, height, width)."""
        return read_image(self.path, channels, self.value_range, window)

    def with_value_range(self, value_range: ValueRange | None) -> "ImageFile":
        """Return the image with the values that become black and white; without any, it must have 8 bit."""
        return replace(self, value_range=value_range)

    def read_size(self) -> tuple[int, int]:
        """Return the height and width, upright."""
        return read_header(self.path, any_size=True).upright_size

    def may_be_turned(self) -> bool:
        """Return whether an EXIF rotation was applied that leaves the size as it was, so that masks fit both ways."""
        return read_header(self.path, any_size=True).may_be_turned_unnoticed


@dataclass(frozen=True)
class MaskFile:
    """A file with one class index per pixel; see `read_mask`.

    Attributes:
        path: the file.
        mask_values: file values of each class; None if the file holds class indices.
        ignore_index: value or values of the pixels to leave out, in the file.
        snap: whether values that are not listed become the most similar listed one nearby.
        divisor: a value of at least this many is divided by it, such as 1000 for class * 1000 + number of the object.
    """

    path: Path
    mask_values: MaskValues | None = None
    ignore_index: IgnoredValues = 255
    snap: bool = False
    divisor: int = 1

    @property
    def paths(self) -> tuple[Path, ...]:
        """The file."""
        return (self.path,)

    @property
    def description(self) -> str:
        """Text for messages."""
        return f"mask '{self.path}'"

    def read(self) -> Tensor:
        """Decode the file as uint8 (H, W)."""
        return read_mask(self.path, self.mask_values, self.ignore_index, self.snap, divisor=self.divisor)

    def read_window(self, window: Window) -> Tensor:
        """Decode a part of the file as uint8 (height, width)."""
        return read_mask(self.path, self.mask_values, self.ignore_index, self.snap, window, self.divisor)

    def read_size(self) -> tuple[int, int]:
        """Return the height and width."""
        return mask_size(self.path)

    def read_numbers(self) -> tuple[Tensor, npt.NDArray[np.integer]]:
        """Return what `read` does, and the values before they become classes (H, W), of one decoding."""
        pixels = open_mask(self.path)
        labels = decode_mask(pixels, self.path, self.mask_values, self.ignore_index, self.snap, self.divisor)
        return labels, mask_numbers(pixels, self.path)

    def contents(self) -> MaskContents:
        """Decode the file and count its values, before they become classes."""
        return read_contents(self.path, any_size=True)


@dataclass(frozen=True)
class ClassMaskFiles:
    """One file per class, in which every value but 0 marks the class: classes may overlap.

    Attributes:
        image_path: file of the image, which gives the size when every class is absent.
        mask_paths: file of each class; None if the class is absent from the whole image.
    """

    image_path: Path
    mask_paths: tuple[Path | None, ...]

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files of the classes that are present."""
        return tuple(path for path in self.mask_paths if path is not None)

    @property
    def description(self) -> str:
        """Text for messages."""
        return " and ".join(f"mask '{path}'" for path in self.paths) or "mask without a class"

    def read(self) -> Tensor:
        """Decode the files as uint8 (K, H, W) of 0 and 1.

        Raises:
            DataError: a file cannot be decoded, or two files differ in size.
        """
        return self._read(None)

    def read_window(self, window: Window) -> Tensor:
        """Decode a part of the files as uint8 (K, height, width) of 0 and 1."""
        return self._read(window)

    def read_size(self) -> tuple[int, int]:
        """Return the height and width of the files, or of the image if there is none.

        Raises:
            DataError: two files differ in size.
        """
        return _common_size(self.paths, self.image_path)

    def _read(self, window: Window | None) -> Tensor:
        masks = _read_equal_sizes(self.paths, window)
        absent = _blank(masks, self.image_path, window)
        return torch.stack([absent if path is None else masks[path] for path in self.mask_paths])


@dataclass(frozen=True)
class LayeredMaskFiles:
    """Files of objects or classes in the order in which they are drawn; what no file marks is class 0.

    Attributes:
        image_path: file of the image, which gives the size when there is no mask.
        layers: (file, class index); every value but 0 in the file marks the class.
    """

    image_path: Path
    layers: tuple[tuple[Path, int], ...]

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files."""
        return tuple(path for path, _ in self.layers)

    @property
    def description(self) -> str:
        """Text for messages."""
        return " and ".join(f"mask '{path}'" for path in self.paths[:3]) or "empty mask"

    def read(self) -> Tensor:
        """Decode the files as uint8 (H, W).

        Raises:
            DataError: a file cannot be decoded, or two files differ in size.
        """
        return self._read(None)

    def read_window(self, window: Window) -> Tensor:
        """Decode a part of the files as uint8 (height, width)."""
        return self._read(window)

    def read_size(self) -> tuple[int, int]:
        """Return the height and width of the files, or of the image if there is none.

        Raises:
            DataError: two files differ in size.
        """
        return _common_size(self.paths, self.image_path)

    def _read(self, window: Window | None) -> Tensor:
        return self._draw(_read_equal_sizes(self.paths, window), window)

    def _draw(self, masks: Mapping[Path, Tensor], window: Window | None) -> Tensor:
        labels = _blank(masks, self.image_path, window)
        for path, index in self.layers:
            labels[masks[path] > 0] = index
        return labels


@dataclass(frozen=True)
class ObjectMaskFiles(LayeredMaskFiles):
    """Files with one object each."""

    def read_objects(self) -> tuple[Tensor, Iterator[tuple[int, Stencil]]]:
        """Return the mask, and the class index of each object with its pixels."""
        masks = _read_equal_sizes(self.paths, None)
        objects = ((index, Stencil(0, 0, masks[path].numpy() > 0)) for path, index in self.layers)
        return self._draw(masks, None), objects


def _read_equal_sizes(paths: Sequence[Path], window: Window | None) -> dict[Path, Tensor]:
    """Decode masks of one image, or a part of them, as uint8 (H, W) of 0 and 1.

    Raises:
        DataError: a file cannot be decoded, or two files differ in size.
    """
    masks = {path: read_binary_mask(path, window) for path in paths}
    _check_equal({path: (mask.shape[0], mask.shape[1]) for path, mask in masks.items()})
    return masks


def _blank(masks: Mapping[Path, Tensor], image_path: Path, window: Window | None) -> Tensor:
    """Return zeros at the size of masks or, without any, of the image or its part."""
    if masks:
        return torch.zeros_like(next(iter(masks.values())))
    size = read_header(image_path).upright_size if window is None else (window.height, window.width)
    return torch.zeros(*size, dtype=torch.uint8)


def _common_size(paths: Sequence[Path], image_path: Path) -> tuple[int, int]:
    """Return the height and width of masks or, without any, of the image.

    Raises:
        DataError: two files differ in size.
    """
    sizes = {path: mask_size(path) for path in paths}
    _check_equal(sizes)
    return next(iter(sizes.values()), None) or read_header(image_path, any_size=True).upright_size


def _check_equal(sizes: Mapping[Path, tuple[int, int]]) -> None:
    by_size = {size: path for path, size in sizes.items()}
    if len(by_size) > 1:
        differing = " and ".join(f"'{path}' is {height}x{width}" for (height, width), path in by_size.items())
        raise DataError(f"masks of one image differ in size: {differing}. Save them at the size of the image.")
