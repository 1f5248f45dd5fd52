"""The split into training, validation and test images, frozen in a file."""

import csv
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from finetune.data.records import DataError, Record
from finetune.io.messages import shortlist
from finetune.io.safe_files import FileError, read_rows

SPLITS = ("train", "val", "test")
SPLIT_NAMES = {  # as people write them, in any case
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
HEADER = ["image", "split"]


def seeded_split(names: Sequence[str], val: float = 0.15, test: float = 0.15, seed: int = 0) -> dict[str, str]:
    """Split names by a hash: the result depends on the set of names and the seed, never on their order.

    A random generator would not do: libraries may change its stream between versions.

    Args:
        names: image names; repeats count once.
        val: fraction for validation, above 0; at least one image.
        test: fraction for test; 0 for none, else at least one image.
        seed: another seed gives another split.

    Returns:
        Name -> "train", "val" or "test".

    Raises:
        DataError: there are too few images for these splits.
    """
    if not (0 < val < 1 and 0 <= test < 1 and val + test < 1):
        raise ValueError(
            f"val={val} and test={test} leave no train split: expected fractions, val above 0, sum below 1."
        )
    order = sorted(set(names), key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
    tests = max(1, round(test * len(order))) if test else 0
    vals = max(1, round(val * len(order)))
    if len(order) <= tests + vals:
        needed = 3 if test else 2
        raise DataError(
            f"{len(order)} images cannot be split into train, val{' and test' if test else ''} with val={val} and "
            f"test={test}: at least {needed} are needed, one of them for train. Add images or lower the fractions."
        )
    return {
        name: "test" if rank < tests else "val" if rank < tests + vals else "train" for rank, name in enumerate(order)
    }


def split_of(name: str) -> str:
    """Return the split that a name stands for, or "" if it stands for none.

    >>> split_of("Training"), split_of("valid"), split_of("site 3")
    ('train', 'val', '')
    """
    return SPLIT_NAMES.get(name.strip().lower(), "")


def cut_validation(records: Sequence[Record], val: float, seed: int) -> list[Record]:
    """Return the records with a part of their train split as val, chosen by a hash of the names.

    Args:
        records: with splits, of which none is val.
        val: fraction of the train split.
        seed: another seed gives another part.

    Raises:
        DataError: there are too few images in train.
    """
    chosen = seeded_split([record.name for record in records if record.split == "train"], val, 0, seed)
    return [replace(record, split=chosen[record.name]) if record.split == "train" else record for record in records]


def write_splits(path: Path, records: Iterable[Record]) -> None:
    """Write the split of every record as CSV with the header `image,split`, sorted by name."""
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER)
        writer.writerows(sorted((record.name, record.split) for record in records))


def read_splits(path: Path) -> dict[str, str]:
    """Read a file of `write_splits` as name -> split.

    Raises:
        DataError: the file is missing, or a row is not one image with one known split.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"no split file '{path}'. Leave data.splits out to have the images split by the seed.")
    try:
        return _as_splits(path, read_rows(path, HEADER))
    except FileError as error:
        raise DataError(f"{error} Correct the split file, or leave data.splits out to have a new one made.") from error


def _as_splits(path: Path, rows: Iterable[Sequence[str]]) -> dict[str, str]:
    splits: dict[str, str] = {}
    stripped = iter([cell.strip() for cell in row] for row in rows)
    for line, row in enumerate(stripped, start=2):
        if not any(row) and next(stripped, None) is None:  # a blank last line
            break
        if len(row) != 2 or row[1] not in SPLITS:
            raise DataError(
                f"'{path}' line {line} is {row[:3]}; expected image,split with split one of {', '.join(SPLITS)}."
            )
        if row[0] in splits:
            raise DataError(f"'{path}' line {line} names '{row[0]}' a second time. Keep one line per image.")
        splits[row[0]] = row[1]
    return splits


def assign_splits(records: Iterable[Record], splits: Mapping[str, str]) -> list[Record]:
    """Return the records with their splits.

    Args:
        records: with names that are unique over all splits.
        splits: name -> split.

    Raises:
        DataError: an image is not in the splits, or the splits name a missing image.
    """
    records = list(records)
    names = {record.name for record in records}
    problems = []
    if without_split := sorted(names - splits.keys()):
        problems.append(f"{len(without_split):,} images are not in the splits: {shortlist(without_split)}")
    if without_image := sorted(splits.keys() - names):
        problems.append(f"{len(without_image):,} names in the splits have no image: {shortlist(without_image)}")
    if problems:
        raise DataError(f"{'; '.join(problems)}. Edit the split file, or leave data.splits out for a new split.")
    return [replace(record, split=splits[record.name]) for record in records]
