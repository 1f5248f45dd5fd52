"""What the images of an evaluation are sliced by: the setting `slices`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.config.errors import ConfigError
from finetune.data import Record
from finetune.data.splitting.split_file import GROUP, HEADER
from finetune.io.messages import shortlist, suggest
from finetune.io.safe_files import read_rows, table_reader
from finetune.metrics.image_statistics import NAMES


def slice_columns(slices: Any, records: Sequence[Record], splits: Path | None = None) -> dict[str, list[str] | None]:
    """Return a value of each image, by the name of the slices; None if it is measured, as in `ImageStatistics`.

    Args:
        slices: a list of names, or the path of a CSV file with a column `image`.
        records: of the images that are evaluated.
        splits: split file of the data set, of whose other images the file may have rows, too.

    Raises:
        ConfigError: an unknown name, data without groups, or a file that does not fit the images.
    """
    if isinstance(slices, str) and slices not in (*NAMES, "group"):
        return _table(Path(slices), [record.name for record in records], splits)
    columns: dict[str, list[str] | None] = {}
    for name in [slices] if isinstance(slices, str) else slices or []:
        if name not in (*NAMES, "group"):
            hint = suggest(str(name), (*NAMES, "group"))
            raise ConfigError(f"slices={slices}: expected names or the path of a CSV file. {hint}")
        columns[name] = [record.group for record in records] if name == "group" else None
    if "group" in columns and not any(columns["group"] or ()):
        raise ConfigError(
            "slices=[group]: the images have no groups. Leave group out, or give the path of a CSV file with the "
            "columns image and group."
        )
    return columns


def _table(path: Path, names: Sequence[str], splits: Path | None) -> dict[str, list[str] | None]:
    table = table_reader(path)
    columns = [name for name in table.fieldnames or () if name != "image"]
    if "image" not in (table.fieldnames or ()) or not columns:
        raise ConfigError(f"slices={path}: it has the columns {table.fieldnames}; expected 'image' and others.")
    rows = {row["image"]: row for row in table}
    others = read_rows(splits, HEADER, GROUP) if splits is not None and splits.is_file() else ()
    known = {*names, *(other[0] for other in others if other)}
    unknown = [name for name in rows if name not in known]
    if unknown or not rows.keys() & set(names):
        raise ConfigError(
            f"slices={path}: {len(unknown):,} of its {len(rows):,} images are not in the data: {shortlist(unknown)}. "
            f"Expected names as in images.csv, such as '{names[0]}'."
        )
    return {column: [(rows.get(name) or {}).get(column) or "" for name in names] for column in columns}
