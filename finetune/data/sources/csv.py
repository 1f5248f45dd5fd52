"""A CSV table that names an image and its mask, or one mask per class, in each row."""

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from os.path import normpath
from pathlib import Path
from typing import NamedTuple

from finetune.data.files import ClassMaskFiles, ImageFile
from finetune.data.masks.values import IgnoredValues, MaskValues
from finetune.data.options import Classes, mask_encoding, named_classes
from finetune.data.recognition.recognized import Recognized, read_head
from finetune.data.records import DataError, Record, Target, error_listing
from finetune.data.splitting.split_names import split_of
from finetune.io.messages import shortlist

CLASS_COLUMN = "mask:"  # followed by the name of the class
# columns that name the group of an image, if there is none called group; also with _id, in any case
GROUP_COLUMNS = ("group", "patient", "subject", "case", "slide", "sequence", "video", "scene", "site")
LAYOUT = "image,mask or image,mask:CLASS,mask:CLASS,... and, if the table has the split, split"


class CsvSource:
    """Images and masks that the rows of a CSV table name.

    The table has a column `image` and, if it has the split, `split` (train, val or test). Its masks are in a column
    `mask` of files with class indices; or, for classes that may overlap, in a column `mask:CLASS` per class: every
    value but 0 in its file marks the class, and an empty cell means that the image does not have the class. A column
    `group`, or else one such as `patient` or `slide_id`, names the group of the image. A column `weight` says how often
    an image is trained on, compared with others. Further columns are ignored. Paths are absolute, or relative to the
    table's folder.

    Args:
        root: folder that holds the table.
        table: path of the table below `root`.
        classes: number of classes, or their names in the order of their indices; None takes those of the columns
            `mask:CLASS`.
        ignore_index: value in the masks of the pixels that loss and scores leave out, or several; None for 255.
        mask_values: file values of each class in the column `mask`, as for `read_mask`; None for class indices.
        snap: whether values in `mask` that are not listed become the most similar listed one nearby; None for no.
    """

    def __init__(
        self,
        root: str | Path,
        table: str = "labels.csv",
        classes: Classes = None,
        ignore_index: IgnoredValues | None = None,
        mask_values: MaskValues | None = None,
        snap: bool | None = None,
    ) -> None:
        self.path = Path(root) / table
        self.classes = classes
        self.encoding = mask_encoding(classes, ignore_index, mask_values, snap)
        self.ignore_index = self.encoding.ignore_index

    @staticmethod
    def recognize(root: Path) -> list[Recognized]:
        """Return the tables of images and masks in a folder, or the table itself."""
        if root.suffix.lower() == ".csv" and root.is_file():
            return [_recognized(root)]
        paths = sorted(path for path in root.glob("*.csv") if path.is_file()) if root.is_dir() else []
        try:
            return [_recognized(path) for path in paths if _names_masks(path)]  # others are tables of something else
        except DataError as error:
            raise DataError(f"{error} data.format=folder reads folders without the table.") from error

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names from `classes`, or else from the columns of the table.

        Raises:
            DataError: the table cannot be read, or `classes` differs from its columns.
        """
        names, columns = named_classes(self.classes), self._table.classes
        if not columns:
            return names
        if self.classes is None or self.classes == len(columns):
            return columns
        if sorted(names) != sorted(columns):
            raise DataError(
                f"data.classes={self.classes}, but the columns of '{self.path}' are for the classes "
                f"{', '.join(columns)}. Leave data.classes out to take those."
            )
        return names

    def records(self) -> list[Record]:
        """Return the records in the order of the rows.

        Raises:
            DataError: with the mistakes of all rows.
        """
        table = self._table
        if table.classes and self.encoding.mask_values is not None:
            raise DataError(f"data.mask_values has no effect: '{self.path}' has a mask per class. Leave it out.")
        if table.classes and self.ignore_index < 2:
            raise DataError(f"data.ignore_index={self.ignore_index}: masks of a class hold 0 and 1. Set it to 255.")
        if problems := list(_row_problems(table, self.path.parent)):
            raise error_listing(f"'{self.path}' cannot be used as it is", problems)
        return [self._record(row.cells) for row in table.rows]

    @cached_property
    def group_column(self) -> str:
        """Column that names the group of each image; "" if there is none."""
        by_meaning = {name.lower().removesuffix("_id"): name for name in self._table.columns}
        return next((by_meaning[name] for name in GROUP_COLUMNS if name in by_meaning), "")

    def column(self, name: str) -> tuple[str, ...]:
        """Return the cell of each row in a column.

        Raises:
            DataError: there is no such column.
        """
        if name not in self._table.columns:
            raise DataError(f"'{self.path}' has no column {name}; it has {shortlist(self._table.columns)}.")
        return tuple(row.cells[name] for row in self._table.rows)

    @cached_property
    def _table(self) -> "Table":
        return read_table(self.path)

    def _record(self, cells: Mapping[str, str]) -> Record:
        image, folder = self.path.parent / cells["image"], self.path.parent
        target: Target
        if self._table.classes:
            masks = [cells[CLASS_COLUMN + name] for name in self.class_names]
            target = ClassMaskFiles(image, tuple(folder / mask if mask else None for mask in masks))
        else:
            target = self.encoding.file(folder / cells["mask"])
        split = split_of(cells.get("split", ""))
        group = cells.get(self.group_column, "") if self.group_column else ""  # a column without a name is none
        return Record(cells["image"], ImageFile(image), target, split, group, float(cells.get("weight") or 1))


def _names_masks(path: Path) -> bool:
    """Return whether the first line of a file has columns of images and masks, whatever is wrong below."""
    head = next(iter(read_head(path).removeprefix("\ufeff").splitlines()), "")
    names = [name.strip(" \"'") for name in re.split("[,;\t]", head)]
    return "image" in names and any(name == "mask" or name.startswith(CLASS_COLUMN) for name in names)


def _recognized(path: Path) -> Recognized:
    table = read_table(path)
    settings = {"format": "csv", "root": str(path.parent), "table": path.name}
    lines = [f"{len(table.rows):,} images and their masks in the table {path.name} (data.table)"]
    if table.classes:
        lines.append(f"a mask for each of the classes {shortlist(table.classes)}, which may overlap (task=multilabel)")
    if "split" in table.columns:
        lines.append("its column split is the split (data.splits)")
    return Recognized(settings, tuple(lines))


class Row(NamedTuple):
    """Cells by column, and the line of the file that they end on."""

    line: int
    cells: Mapping[str, str]


class Table(NamedTuple):
    """A table with the columns that a source needs, and a cell for each in every row."""

    columns: tuple[str, ...]
    rows: list[Row]

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes with a column of their own, in the order of the columns."""
        return tuple(name.removeprefix(CLASS_COLUMN) for name in self.columns if name.startswith(CLASS_COLUMN))

    @property
    def mask_columns(self) -> tuple[str, ...]:
        """Columns that name masks."""
        return tuple(name for name in self.columns if name == "mask" or name.startswith(CLASS_COLUMN))


def read_table(path: Path) -> Table:
    """Read a table of images and masks; empty lines are skipped.

    Raises:
        DataError: the file is missing or not CSV, its columns do not fit, or it has no rows.
    """
    if not path.is_file():
        raise DataError(f"no table '{path}'. Set data.root to its folder, and data.table to its name.")
    lines = [(line, cells) for line, cells in _lines(path) if any(cells)]
    if len(lines) < 2:
        raise DataError(f"'{path}' has no rows; expected a header {LAYOUT}, and a row per image.")
    columns = tuple(CLASS_COLUMN.join(part.strip() for part in name.split(CLASS_COLUMN, 1)) for name in lines[0][1])
    _check_columns(path, columns)
    if uneven := [line for line, cells in lines if len(cells) != len(columns)]:
        raise DataError(
            f"'{path}' has another number of cells than its header ({len(columns)}) in line {shortlist(uneven)}. "
            f"Correct the rows; quote cells that contain a comma."
        )
    return Table(columns, [Row(line, dict(zip(columns, cells, strict=True))) for line, cells in lines[1:]])


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the cells of each line; a quoted cell may span several lines, of which the last counts."""
    content = path.read_bytes()
    try:
        reader = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        for cells in reader:
            yield reader.line_num, [cell.strip() for cell in cells]
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"'{path}' line {line} is not UTF-8: {error.reason}. Save the table in UTF-8.") from error
    except csv.Error as error:
        raise DataError(f"'{path}' line {reader.line_num} is not CSV: {error}. Correct the quotes.") from error


def _check_columns(path: Path, columns: tuple[str, ...]) -> None:
    single = "mask" in columns
    per_class = [name for name in columns if name.startswith(CLASS_COLUMN)]
    relevant = [name for name in columns if name in ("image", "mask", "split") or name.startswith(CLASS_COLUMN)]
    if "image" not in columns or not (single or per_class):
        problem = f"has the columns {shortlist(columns)}"
    elif single and per_class:
        problem = f"has both mask and {shortlist(per_class)}"
    elif CLASS_COLUMN in per_class:
        problem = f"has a column '{CLASS_COLUMN}' without the name of a class"
    elif len(set(relevant)) < len(relevant):
        problem = f"has a column twice: {shortlist(relevant)}"
    else:
        return
    raise DataError(f"'{path}' line 1 {problem}; expected {LAYOUT}.")


def _row_problems(table: Table, folder: Path) -> Iterator[str]:
    """Yield a text with its line number for each mistake in the rows."""
    has_split = any(row.cells.get("split") for row in table.rows)
    first_lines: dict[str, int] = {}
    for line, cells in table.rows:
        image = normpath(cells["image"])
        if cells["image"] and first_lines.setdefault(image, line) != line:
            yield f"line {line} names the image '{cells['image']}' of line {first_lines[image]} again. Keep one row."
        if not _is_weight(cells.get("weight") or "1"):
            yield f"line {line} has the weight '{cells['weight']}'; expected a number of 0 or more."
        if has_split and not split_of(cells["split"]):
            yield f"line {line} has the split '{cells['split']}'; expected train, val or test."
        for column in ("image", *table.mask_columns):
            if problem := _path_problem(cells[column], folder, required=not column.startswith(CLASS_COLUMN)):
                yield f"line {line}, column {column}: {problem}"


def _is_weight(cell: str) -> bool:
    try:
        return 0 <= float(cell) < math.inf
    except ValueError:
        return False


def _path_problem(cell: str, folder: Path, required: bool) -> str | None:
    if not cell:
        return "expected a path, got an empty cell." if required else None
    if not Path(cell).is_absolute() and normpath(cell).startswith(".."):
        return f"'{cell}' leads out of '{folder}'. Move the table up, or write the path in full."
    return None if (folder / cell).is_file() else f"no file '{folder / cell}'."
