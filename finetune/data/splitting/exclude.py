"""Leave out the images that a list names."""

from collections.abc import Sequence
from pathlib import Path

from finetune.data.records import DataError, Record
from finetune.io.messages import shortlist
from finetune.io.safe_files import LONGEST_TABLE, FileError, read_text, table_reader

FILE_COLUMN = "file"


def without_excluded(records: Sequence[Record], path: Path, root: Path | None = None) -> list[Record]:
    """Return the records that a list does not name.

    An entry is the name of a record or the path of its image or mask, in full or below `root`.

    Args:
        records: of any source.
        path: of the list; see `read_exclusions`.
        root: folder of the data.

    Raises:
        DataError: the list cannot be read, names something else, or leaves nothing.
    """
    names = read_exclusions(path)
    of_records = [_names(record, root) for record in records]
    known = set().union(*of_records)
    if unknown := [name for name in names if _normal(name) not in known]:
        raise DataError(
            f"data.exclude='{path}' names {len(unknown):,} that no image or mask has: {shortlist(unknown)}. Correct "
            f"the list, or leave it out."
        )
    wanted = set(map(_normal, names))
    kept = [record for record, own in zip(records, of_records, strict=True) if not own & wanted]
    if not kept:
        raise DataError(f"data.exclude='{path}' names all {len(records):,} images. Keep some.")
    return kept


def entry_for(record: Record, root: Path | None = None) -> str:
    """Return what a list names a record by: the path of its image, below `root` if it is there, or else its name."""
    if not record.image.paths:
        return record.name
    return below(record.image.paths[0], root)


def _names(record: Record, root: Path | None) -> set[str]:
    """Return all that a list may name a record by."""
    paths = record.paths
    return {record.name, *(path.as_posix() for path in paths), *(below(path, root) for path in paths)}


def below(path: Path, root: Path | None) -> str:
    """Return a path as a list has it: below `root` if it is there, or else in full."""
    return path.relative_to(root).as_posix() if root is not None and path.is_relative_to(root) else path.as_posix()


def _normal(name: str) -> str:
    return name.replace("\\", "/").removeprefix("./")


def read_exclusions(path: Path) -> list[str]:
    """Return the names of a list: one a line, or those in the column `file` of a CSV table.

    Raises:
        DataError: the file is missing, not UTF-8, or a table without that column.
    """
    try:
        if path.suffix.lower() != ".csv":
            lines = read_text(path, LONGEST_TABLE).removeprefix("\ufeff").splitlines()
            return [line.strip() for line in lines if line.strip()]
        table = table_reader(path)
    except FileError as error:
        raise DataError(f"{error} Set data.exclude to a list of images, or leave it out.") from error
    if FILE_COLUMN not in (table.fieldnames or ()):
        raise DataError(f"'{path}' has the columns {shortlist(table.fieldnames or ())}; expected one named file.")
    return list(dict.fromkeys(row[FILE_COLUMN] for row in table if row[FILE_COLUMN]))
