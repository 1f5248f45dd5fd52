"""Image data sets of the Hugging Face library `datasets`."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage
from torch import Tensor

from finetune.data.images.decode import upright
from finetune.data.images.formats.pillow import image_pixels
from finetune.data.images.pixels import with_channels
from finetune.data.images.value_range import ValueRange, eight_bit
from finetune.data.masks.contents import MaskContents, pixel_contents
from finetune.data.masks.reading import decode_mask, without_fractions
from finetune.data.masks.values import IgnoredValues, MaskValues
from finetune.data.options import Classes, MaskEncoding, mask_encoding
from finetune.data.recognition.recognized import Recognized
from finetune.data.records import DataError, Record
from finetune.data.splitting.split_names import split_of
from finetune.io.messages import shortlist

MASK_NAMES = ("mask", "label", "annotation", "segmentation_mask", "segmentation", "gt", "labels", "masks")


class HfSource:
    """A data set with a column of images and one of masks, saved in a folder or on the Hugging Face Hub.

    Args:
        root: folder written by `save_to_disk`, or the name of a data set on the Hub, which is downloaded.
        classes: as for `FolderSource`.
        ignore_index: as for `FolderSource`.
        mask_values: as for `FolderSource`.
        snap: as for `FolderSource`.
        image_column: name of the column of images; None takes the one that is named image, or is not the masks'.
        mask_column: name of the column of masks; None takes the one that is named like masks.
    """

    def __init__(
        self,
        root: str | Path,
        classes: Classes = None,
        ignore_index: IgnoredValues | None = None,
        mask_values: MaskValues | None = None,
        snap: bool | None = None,
        image_column: str | None = None,
        mask_column: str | None = None,
    ) -> None:
        self.root = str(root)
        self.encoding = mask_encoding(classes, ignore_index, mask_values, snap)
        self.class_names = self.encoding.class_names
        self.ignore_index = self.encoding.ignore_index
        self.given = (image_column, mask_column)

    @staticmethod
    def recognize(root: Path) -> list[Recognized]:
        """Return whether a folder was written by `save_to_disk`."""
        if not any((root / name).is_file() for name in ("dataset_dict.json", "dataset_info.json")):
            return []
        return [Recognized({"format": "hf", "root": str(root)}, ("a data set saved by datasets (data.format=hf)",))]

    def records(self) -> list[Record]:
        """Return the records in the order of the data set.

        Raises:
            DataError: the data set cannot be loaded, or its columns are not clear.
            ImportError: the library is not installed.
        """
        records = []
        for name, rows in self._splits.items():
            image, mask = self._columns(rows)
            digits = len(str(max(0, len(rows) - 1)))
            for index in range(len(rows)):
                text = f"{name}_{index:0{digits}d}" if name else f"{index:0{digits}d}"
                target = HfMask(HfCell(rows, mask, index, text), self.encoding)
                records.append(Record(text, HfImage(HfCell(rows, image, index, text)), target, split_of(name)))
        if any(record.split for record in records) and not all(record.split for record in records):
            raise DataError(
                f"'{self.root}' has the splits {shortlist(self._splits)}, of which some are none of train, validation "
                f"and test. Save it with these names."
            )
        return records

    @cached_property
    def _splits(self) -> dict[str, Any]:
        datasets = _import_datasets()
        try:
            is_folder = Path(self.root).is_dir()
            loaded = datasets.load_from_disk(self.root) if is_folder else datasets.load_dataset(self.root)
        except Exception as error:  # the library raises many kinds
            raise DataError(f"cannot load the data set '{self.root}': {type(error).__name__}: {error}") from error
        return dict(loaded) if isinstance(loaded, dict) else {"": loaded}

    def _columns(self, rows: Any) -> tuple[str, str]:
        """Return the names of the columns of images and masks."""
        images = [name for name, feature in rows.features.items() if type(feature).__name__ == "Image"]
        given_image, given_mask = self.given
        masks = [given_mask] if given_mask else [n for known in MASK_NAMES for n in images if n.lower() == known]
        mask = masks[0] if masks else None
        others = [name for name in images if name != mask]
        image = given_image or ("image" if "image" in others else others[0] if len(others) == 1 else None)
        if mask is None or image is None or {mask, image} - set(images):
            raise DataError(
                f"'{self.root}' has the columns {shortlist(rows.features)}; images are in "
                f"{shortlist(images) or 'none'}. Set data.image_column and data.mask_column to two of these."
            )
        return image, mask


@dataclass(frozen=True)
class HfCell:
    """An image in a data set.

    Attributes:
        rows: the data set.
        column: name of the column.
        index: of the row.
        name: of the row, for messages.
    """

    rows: Any
    column: str
    index: int
    name: str

    def read(self) -> PILImage.Image:
        """Decode the image upright.

        Raises:
            DataError: it cannot be decoded, or is missing.
        """
        try:
            image = self.rows[self.index][self.column]
            image.load()
        except Exception as error:  # a broken file makes readers raise nearly anything
            raise DataError(f"cannot read {self.column} '{self.name}': {type(error).__name__}: {error}") from error
        return upright(image)


@dataclass(frozen=True)
class HfImage:
    """The image of a row."""

    cell: HfCell
    value_range: ValueRange | None = None
    paths: tuple[Path, ...] = ()

    @property
    def description(self) -> str:
        """Text for messages."""
        return f"image '{self.cell.name}'"

    def read(self, channels: int = 3) -> Tensor:
        """Decode the image as uint8 (channels, H, W)."""
        pixels = eight_bit(image_pixels(self.cell.read()), self.value_range, self.description)
        values = with_channels(pixels, channels, self.description)
        return torch.from_numpy(np.array(values.transpose(2, 0, 1), order="C"))

    def with_value_range(self, value_range: ValueRange | None) -> "HfImage":
        """Return the image with the values that become black and white; without any, it must have 8 bit."""
        return replace(self, value_range=value_range)


@dataclass(frozen=True)
class HfMask:
    """The mask of a row."""

    cell: HfCell
    encoding: MaskEncoding
    paths: tuple[Path, ...] = ()

    @property
    def description(self) -> str:
        """Text for messages."""
        return f"mask '{self.cell.name}'"

    def read(self) -> Tensor:
        """Decode the mask as uint8 (H, W)."""
        encoding = self.encoding
        pixels = without_fractions(self.cell.read(), self.cell.name)
        return decode_mask(pixels, self.cell.name, encoding.mask_values, encoding.ignored, encoding.snap)

    def contents(self) -> MaskContents:
        """Decode the mask and count its values."""
        return pixel_contents(without_fractions(self.cell.read(), self.cell.name))


def _import_datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            "data.format=hf needs a package that is not installed: pip install 'finetune-seg[hf]'"
        ) from error
    return datasets
