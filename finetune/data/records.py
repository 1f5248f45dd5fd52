"""The contract between data sources and everything that reads them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor


class DataError(ValueError):
    """Data that cannot be used as it is; the message says what to change."""


def error_listing(title: str, problems: Sequence[str], limit: int = 20) -> DataError:
    """Return an error with a line for each problem, or for the first ones of many.

    >>> print(error_listing("the table cannot be used", ["line 2 is empty", "line 5 is empty"], limit=1))
    the table cannot be used:
    - line 2 is empty
    - and 1 more problems
    """
    rest = len(problems) - limit
    shown = [*problems[:limit], *([f"and {rest:,} more problems"] if rest > 0 else [])]
    return DataError("\n- ".join([f"{title}:", *shown]))


class Image(Protocol):
    """An image that is decoded only when it is read."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """Files that the image is made from; empty for a synthetic one."""

    @property
    def description(self) -> str:
        """Text for messages, such as `image 'photos/7.jpg'`."""

    def read(self, channels: int = 3) -> Tensor:
        """Return the image as uint8 (channels, H, W).

        Args:
            channels: number of channels; 1 is gray, 3 is RGB.

        Raises:
            DataError: the image cannot be decoded.
        """


class Target(Protocol):
    """The ground truth of one image, decoded only when it is read."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """Files that the target is made from; empty for a synthetic one."""

    @property
    def description(self) -> str:
        """Text for messages, such as `mask 'masks/7.png'`."""

    def read(self) -> Tensor:
        """Return the target as uint8, at the size of its image.

        Returns:
            Class indices (H, W) with `ignore_index` for pixels that are not labeled; or, where a pixel may belong to
            several classes, (K, H, W) with one channel per class that holds 0, 1 and `ignore_index`.

        Raises:
            DataError: the target cannot be decoded.
        """


@dataclass(frozen=True)
class Record:
    """One image with its target.

    Attributes:
        name: unique within its split, the same on every machine: files of splits and messages use it.
        image: the image.
        target: the ground truth; None if there is none.
        split: "train", "val" or "test"; "" while the image has no split.
        group: patient, tile or sequence, of which a split that we make keeps all images on one side; "" for none.
        weight: how often the image is trained on, compared with others.
    """

    name: str
    image: Image
    target: Target | None = None
    split: str = ""
    group: str = ""
    weight: float = 1.0

    def with_split(self, split: str) -> "Record":
        """Return the record in another split, in a quarter of the time that `replace` takes."""
        copy = object.__new__(Record)
        copy.__dict__.update(self.__dict__, split=split)
        return copy

    @property
    def paths(self) -> tuple[Path, ...]:
        """Files of the image, then of the target."""
        return (*self.image.paths, *(self.target.paths if self.target is not None else ()))

    @property
    def description(self) -> str:
        """Text for messages, such as `image 'images/7.jpg' or its mask 'masks/7.png'`."""
        return self.image.description + (f" or its {self.target.description}" if self.target is not None else "")


class Source(Protocol):
    """A collection of images in one format on disk, or made on the fly.

    A constructor takes flat, typed options; they are the settings in `conf/data/<format>.yaml`. It reads no file. The
    options `classes`, `ignore_index` and `mask_values`, if there are any, mean the same as in `FolderSource`:
    `finetune evaluate` sets them to those of the model.
    """

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their indices; empty if neither the data nor an option gives them."""

    @property
    def ignore_index(self) -> int:
        """Label of the pixels that loss and scores leave out, 0 to 255."""

    def records(self) -> list[Record]:
        """Return a record for each image.

        Either no image has a split, or images without one are left to be train.

        Raises:
            DataError: with every mistake found, not only the first.
        """
