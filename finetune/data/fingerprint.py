"""What the images and masks of a run were, so that it can be said when they have changed."""

import csv
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from finetune.data.records import DataError, Record
from finetune.io.messages import shortlist
from finetune.io.safe_files import FileError, read_rows

HEADER = ["image", "split", "fingerprint"]
Fingerprints = dict[tuple[str, str], str]


def fingerprints(records: Iterable[Record]) -> Fingerprints:
    """A hash of the bytes of each image with its mask, by name and split."""
    return {(record.name, record.split): _hash(record) for record in records}


def _hash(record: Record) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for path in (record.image, record.mask):
        digest.update(path.read_bytes() if path is not None else b"")
    return digest.hexdigest()


def write_fingerprints(path: Path, found: Mapping[tuple[str, str], str]) -> None:
    """Write fingerprints as CSV with the header `image,split,fingerprint`."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER)
        writer.writerows([*key, value] for key, value in sorted(found.items()))


def read_fingerprints(path: Path) -> Fingerprints:
    """Read a file of `write_fingerprints`.

    Raises:
        DataError: it is damaged, or none of ours.
    """
    found: Fingerprints = {}
    try:
        for line, row in enumerate(read_rows(path, HEADER), start=2):
            if len(row) != 3:
                raise FileError(path, f"line {line} is {row[:4]}; expected {','.join(HEADER)}.")
            found[row[0], row[1]] = row[2]
    except FileError as error:
        raise DataError(f"{error} Remove the file, and it is not looked whether the data has changed.") from error
    return found


def changes(before: Mapping[tuple[str, str], str], now: Mapping[tuple[str, str], str]) -> str:
    """What has changed, in words; nothing where nothing has.

    >>> changes({("a", "train"): "0", ("b", "val"): "1"}, {("a", "train"): "2", ("b", "val"): "1"})
    '1 of 2 images or their masks have changed (a)'
    """
    lists = {
        "of {} images or their masks have changed": [key for key in before if key in now and now[key] != before[key]],
        "of {} images are gone": [key for key in before if key not in now],
        "images are new": [key for key in now if key not in before],
    }
    said = [
        f"{len(keys):,} {what.format(f'{len(before):,}')} ({shortlist(sorted(name for name, _ in keys))})"
        for what, keys in lists.items()
        if keys
    ]
    return "; ".join(said)
