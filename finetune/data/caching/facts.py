"""Read many files, or take what is known of them from a `FileCache`."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from finetune.data.caching.file_cache import KEY, KEY_OF_MANY, FileCache
from finetune.data.processes import each_result

Item = TypeVar("Item")
Known = TypeVar("Known")
LONGEST_STAMP = 1000  # characters; the hash of a longer one is kept
YOUNG = 2_000_000_000  # ns; a file may change again within one step of its modification time, two seconds on FAT
AT_ONCE = 4096  # items between two writes, so that a reading that is cut short is not lost


@dataclass(frozen=True)
class Fact(Generic[Item, Known]):
    """Something that reading the files of an item tells, and its form in the cache.

    Attributes:
        name: unique, with a number that is raised when the same files would tell something else.
        files: the files of an item; none if it has none, and is always read.
        settings: everything else that the fact depends on; None if that cannot be told, and the item is always read.
        to_json: makes plain data of a fact; None if reading failed, and is to be tried again.
        from_json: the opposite; it raises ValueError, TypeError, KeyError or IndexError for any other plain data.
        is_of_many: whether an item is a sequence of items, of whose own facts this one is made. It is forgotten when
            the fact of any file becomes another one, so that it is never older than they are.
    """

    name: str
    files: Callable[[Item], Sequence[Path]]
    settings: Callable[[Item], str | None]
    to_json: Callable[[Known], Any]
    from_json: Callable[[Item, Any], Known]
    is_of_many: bool = False


def read_each(
    items: Sequence[Item],
    fact: Fact[Item, Known],
    read: Callable[[Item], Known],
    cache: FileCache | None = None,
    processes: int | None = None,
) -> list[Known]:
    """Return the fact of each item, by calling `read` for those that are not in the cache.

    Args:
        items: in any order.
        fact: how it is cached.
        read: reads the files of an item; the fact may be a copy, of another process.
        cache: None reads everything.
        processes: as for `each_result`.
    """
    if fact.is_of_many:  # whose reading has processes of its own, and ends at once when it is interrupted
        return list(_read_some(items, fact, read, cache, 1))
    return [
        known
        for start in range(0, len(items), AT_ONCE)
        for known in _read_some(items[start : start + AT_ONCE], fact, read, cache, processes)
    ]


def _read_some(
    items: Sequence[Item],
    fact: Fact[Item, Known],
    read: Callable[[Item], Known],
    cache: FileCache | None,
    processes: int | None,
) -> Sequence[Known]:
    files, stamps = [fact.files(item) for item in items], _Stamps()
    keys = [_key(fact, item, paths) for item, paths in zip(items, files, strict=True)]
    if None in keys and processes != 1:
        processes = 0  # it may hold an open file, in which forked processes would share their place
    if cache is None:
        return list(each_result(read, items, processes))
    rows = cache.find([key for key in keys if key is not None])
    known: dict[int, Known] = {}
    for index, key in enumerate(keys):
        row = rows.get(key) if key is not None and cache.verify != "full" else None
        if row is not None and (cache.verify == "none" or row[0] == stamps.of(files[index])):
            value = _parsed(fact, items[index], row[1])
            if value is not None:
                known[index] = value
    many: Any = items
    cache.taken += sum(len(many[index]) for index in known) if fact.is_of_many else len(known)
    missing = [index for index in range(len(items)) if index not in known]
    # before the files are read: one that changes meanwhile has another stamp the next time
    before = {index: stamps.of(files[index]) for index in missing if keys[index] is not None}
    values = list(each_result(read, [items[index] for index in missing], processes))
    new = {}
    for index, value in zip(missing, values, strict=True):
        key, stamp = keys[index], before.get(index)
        if key is not None and stamp is not None and (plain := fact.to_json(value)) is not None:
            new[key] = (stamp, json.dumps(plain, separators=(",", ":")))
    cache.save(new, forget_many=not fact.is_of_many and any(rows.get(key, row) != row for key, row in new.items()))
    known.update(zip(missing, values, strict=True))
    return [known[index] for index in range(len(items))]


def _key(fact: Fact[Item, Any], item: Item, files: Sequence[Path]) -> bytes | None:
    """Return what a fact is found by: its name, the settings it depends on, and the paths of its files."""
    settings = fact.settings(item) if files else None
    if settings is None:
        return None
    paths = [path if path[:1] == "/" else os.path.abspath(path) for path in map(os.fspath, files)]
    text = "\0".join((fact.name, settings, *paths))  # no path can hold a zero
    size = KEY_OF_MANY if fact.is_of_many else KEY
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=size).digest()


def _parsed(fact: Fact[Item, Known], item: Item, text: str) -> Known | None:
    """Return the fact that a text holds; None if it holds something else."""
    try:
        return fact.from_json(item, json.loads(text))
    except (ValueError, TypeError, KeyError, IndexError, RecursionError):
        return None


class _Stamps:
    """Sizes and modification times of files as text; each file is looked at once."""

    def __init__(self) -> None:
        self.known: dict[str, str | None] = {}

    def of(self, files: Sequence[Path]) -> str | None:
        """Return the stamp of files; None if one is missing, or so young that it may change without a new time."""
        stamps = [self._of_file(os.fspath(file)) for file in files]
        if None in stamps:
            return None
        text = " ".join(filter(None, stamps))
        return text if len(text) <= LONGEST_STAMP else hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def _of_file(self, path: str) -> str | None:
        if path not in self.known:
            try:
                status = os.stat(path)
            except OSError:
                status = None
            old = status is not None and status.st_mtime_ns < time.time_ns() - YOUNG
            self.known[path] = f"{status.st_size}:{status.st_mtime_ns}" if status is not None and old else None
        return self.known[path]
