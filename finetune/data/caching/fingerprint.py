"""Hashes of the images and targets of a run, to notice when they have changed."""

import csv
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from pathlib import Path

from finetune.data.caching.collection_facts import Collection, hashes_fact
from finetune.data.caching.facts import read_each
from finetune.data.caching.file_cache import FileCache
from finetune.data.caching.known_facts import HASH, hash_fact
from finetune.data.records import DataError, Record
from finetune.io.garbage import no_collection
from finetune.io.messages import shortlist
from finetune.io.safe_files import FileError, read_rows

HEADER = ["image", "split", "fingerprint"]
Fingerprints = dict[tuple[str, str], str]


def fingerprints(records: Iterable[Record], cache: FileCache | None = None) -> Fingerprints:
    """Return a hash of the files of each record by (name, split); records without files are left out.

    Args:
        records: of any source.
        cache: of the hashes; None reads all files.
    """
    collection = Collection(list(records))
    if not all(collection.paths):
        collection = Collection([record for record in collection.records if record.paths])
    hashes = read_each([collection], hashes_fact, lambda some: "".join(_hashes(some.records, cache)), cache)[0]
    with no_collection():
        found = [hashes[at : at + 2 * HASH] for at in range(0, len(hashes), 2 * HASH)]
        keys = map(attrgetter("name", "split"), collection.records)
        return dict(zip(keys, found, strict=True))


def _hashes(records: Sequence[Record], cache: FileCache | None) -> list[str]:
    digests: dict[Path, bytes] = {}  # a file may serve many records
    return read_each(records, hash_fact, lambda record: _fingerprint(record.paths, digests), cache, processes=1)


def _fingerprint(paths: Iterable[Path], digests: dict[Path, bytes]) -> str:
    combined = hashlib.blake2b(digest_size=8)
    for path in paths:
        if path not in digests:
            with path.open("rb") as file:
                digests[path] = hashlib.file_digest(file, hashlib.blake2b).digest()
        combined.update(digests[path])
    return combined.hexdigest()


def write_fingerprints(path: Path, by_record: Mapping[tuple[str, str], str]) -> None:
    """Write fingerprints as CSV with the header `image,split,fingerprint`."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER)
        writer.writerows([*key, value] for key, value in sorted(by_record.items()))


def read_fingerprints(path: Path) -> Fingerprints:
    """Read a file of `write_fingerprints`.

    Raises:
        DataError: the file is damaged, or not a file of `write_fingerprints`.
    """
    by_record: Fingerprints = {}
    try:
        for line, row in enumerate(read_rows(path, HEADER), start=2):
            if len(row) != 3:
                raise FileError(path, f"line {line} is {row[:4]}; expected {','.join(HEADER)}.")
            by_record[row[0], row[1]] = row[2]
    except FileError as error:
        raise DataError(f"{error} Delete the file to skip the check for changed data.") from error
    return by_record


def changes(before: Mapping[tuple[str, str], str], now: Mapping[tuple[str, str], str]) -> str:
    """Describe the changes between two sets of fingerprints; empty if there are none.

    >>> changes({("a", "train"): "0", ("b", "val"): "1"}, {("a", "train"): "2", ("b", "val"): "1"})
    '1 of 2 images or their masks have changed (a)'
    """
    groups = {
        "of {} images or their masks have changed": [key for key in before if key in now and now[key] != before[key]],
        "of {} images are gone": [key for key in before if key not in now],
        "images are new": [key for key in now if key not in before],
    }
    return "; ".join(
        f"{len(keys):,} {text.format(f'{len(before):,}')} ({shortlist(sorted(name for name, _ in keys))})"
        for text, keys in groups.items()
        if keys
    )
