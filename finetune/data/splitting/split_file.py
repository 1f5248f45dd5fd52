"""The file that freezes a split."""

import csv
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from finetune.data.records import DataError, Record
from finetune.data.splitting.split_names import SPLITS
from finetune.io.garbage import no_collection
from finetune.io.messages import shortlist
from finetune.io.safe_files import FileError, read_rows

HEADER = ["image", "split"]
GROUP = "group"  # third column, if there are groups


def write_splits(path: Path, records: Iterable[Record]) -> None:
    """Write the split of every record as CSV with the header `image,split`, sorted by name.

    If there are groups, they are a third column, `group`.
    """
    records = list(records)
    width = 3 if any(record.group for record in records) else 2
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*HEADER, GROUP][:width])
        writer.writerows(sorted((record.name, record.split, record.group)[:width] for record in records))


def read_splits(path: Path) -> dict[str, str]:
    """Read a file of `write_splits` as name -> split; a column `group` is left out.

    Raises:
        DataError: the file is missing, or a row is not one image with one known split.
    """
    return _splits_by(lambda name, split: name, path)


def _splits_by(key: Callable[[str, str], Hashable], path: Path) -> dict[Any, str]:
    """Return a file of `write_splits` as key of (name, split) -> split."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"no split file '{path}'. Leave data.splits out to have the images split by the seed.")
    try:
        return _as_splits(key, path, read_rows(path, HEADER, GROUP))
    except FileError as error:
        raise DataError(f"{error} Correct the split file, or leave data.splits out to have a new one made.") from error


def _as_splits(key: Callable[[str, str], Hashable], path: Path, rows: Iterable[Sequence[str]]) -> dict[Any, str]:
    splits: dict[Any, str] = {}
    entries = iter([*row[:1], *map(str.strip, row[1:])] for row in rows)  # the name of a file may end with a space
    for line, row in enumerate(entries, start=2):
        if not any(map(str.strip, row)) and next(entries, None) is None:  # a blank last line
            break
        if len(row) != 3 or row[1] not in SPLITS:
            raise DataError(
                f"'{path}' line {line} is {[cell for cell in row if cell][:3]}; expected image,split with split one of "
                f"{', '.join(SPLITS)}."
            )
        if (place := key(row[0], row[1])) in splits:
            raise DataError(f"'{path}' line {line} names '{row[0]}' a second time. Keep one line per image.")
        splits[place] = row[1]
    return splits


def read_training_images(path: Path, split: str) -> set[str]:
    """Return the names of the images that a run trained on.

    Args:
        path: the run's file of `write_splits`.
        split: that the names are compared with, `val` or `test`; a name that the file has there, too, is left out, as
            it is another image.
    """
    places = _splits_by(lambda name, part: (name, part), path)
    return {name for name, part in places if part == "train" and (name, split) not in places}


@no_collection()
def assign_splits(records: Iterable[Record], splits: Mapping[str, str]) -> list[Record]:
    """Return the records with their splits.

    Args:
        records: with names that are unique over all splits.
        splits: name -> split.

    Raises:
        DataError: an image is not in the splits, or the splits name a missing image.
    """
    records = list(records)
    names = [record.name for record in records]
    if names != list(splits) and set(names) != splits.keys():  # a new split has them in order, which is quick to see
        stripped = {name.strip(): split for name, split in splits.items()}  # an editor may have added spaces
        splits = stripped if len(stripped) == len(splits) else splits
        if set(names) != splits.keys():
            raise _other_names(set(names), splits)
    return [record.with_split(splits[name]) for record, name in zip(records, names, strict=True)]


def _other_names(names: Set[str], splits: Mapping[str, str]) -> DataError:
    problems = []
    if without_split := sorted(names - splits.keys()):
        problems.append(f"{len(without_split):,} images are not in the splits: {shortlist(without_split)}")
    if without_image := sorted(splits.keys() - names):
        problems.append(f"{len(without_image):,} names in the splits have no image: {shortlist(without_image)}")
    return DataError(f"{'; '.join(problems)}. Edit the split file, or leave data.splits out for a new split.")


def restore_splits(records: Iterable[Record], path: Path) -> list[Record]:
    """Return the records with the splits that a run had, from its split file.

    Images in a test split of the data stay there, whatever the file says: a run changes train and val only. Without
    one, a test split may have been cut from train. A name may be in several splits of the data; its image in val then
    stays there if the file has the name there, and the one in train is in the split that is left.

    Args:
        records: of the run, with the splits of the data, if it has any.
        path: file of `write_splits`.

    Raises:
        DataError: the file cannot be read, or does not fit the images.
    """
    records, places = list(records), _splits_by(lambda name, split: (name, split), path)
    fixed = {(record.name, record.split) for record in records if record.split == "test"}
    if fixed:
        places = {place: split for place, split in places.items() if split != "test"}
    kept = {(record.name, record.split) for record in records if record.split == "val"} & places.keys()
    left, kept = [place for place in places if place not in kept], kept | fixed
    if repeated := [name for name, times in Counter(name for name, _ in left).items() if times > 1]:
        raise DataError(
            f"'{path}' does not say which images called {shortlist(repeated, 3)} are in which split. Keep one line "
            f"each, or give the images other names."
        )
    others = iter(assign_splits([r for r in records if (r.name, r.split) not in kept], dict(left)))
    return [record if (record.name, record.split) in kept else next(others) for record in records]
