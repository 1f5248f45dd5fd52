"""Reading of files that may come from an untrusted source: as plain data within limits, or not at all."""

import csv
import json
import mmap
import os
import re
import zipfile
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any, TextIO

import torch
from safetensors.torch import load_file
from torch import Tensor

from finetune.io.pickles import check_pickle
from finetune.io.zip_archives import check_archive, is_archive

# ours have a few kilobytes, a few hundred values and four levels
LONGEST_TEXT = 2**18  # bytes of a JSON or YAML file
LONGEST_STRING = 2**12  # characters
LONGEST_TABLE = 2**27  # bytes of a CSV file: about two million images
LONGEST_LINE = 2**13  # characters of a CSV file
MOST_VALUES = 20_000
DEEPEST = 12
PLAIN = (str, int, float, type(None), list, tuple, dict)


class FileError(ValueError):
    """A file that cannot be read as plain data, or may not be.

    Attributes:
        reason: the message without the file name.
    """

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"'{path}' cannot be read: {reason}")
        self.reason = reason


def inside(path: Path, folder: Path) -> Path:
    """Return the path if it is below the folder after all links and `..` are resolved.

    The folder itself may be a link. The files of a snapshot in the cache of the Hugging Face hub may be links to that
    cache.

    Raises:
        FileError: the path leads out of the folder.
    """
    if not path.resolve().is_relative_to(folder.resolve()) and not _is_cached(path.resolve(), folder.resolve()):
        raise FileError(
            path,
            f"it leads out of the folder, to '{path.resolve()}', and only files of the folder itself are read. Copy "
            f"the file there if it belongs to it.",
        )
    return path


def _is_cached(file: Path, folder: Path) -> bool:
    """Return whether a file has its content in the hub's cache that the folder is a snapshot of: by hash, in `blobs`.

    Content that repositories share is in a further `blobs`, next to them.
    """
    repository = folder.parent.parent
    is_snapshot = folder.parent.name == "snapshots" and repository.name.startswith("models--")
    stores = (repository / "blobs", repository.parent / "blobs" / file.name[:2])
    return is_snapshot and file.parent in stores and re.fullmatch("[0-9a-f]{40,64}", file.name) is not None


def check_links(folder: Path, harmless: str = "") -> None:
    """Raise FileError if a link below a folder leads out of it.

    Args:
        folder: checked with all its subfolders.
        harmless: pattern of paths, such as `logs/*.log`, whose links may lead anywhere.
    """
    for home, folders, files in os.walk(folder):
        for name in (*folders, *files):
            if (path := Path(home, name)).is_symlink() and not (harmless and path.match(harmless)):
                inside(path, folder)


def read_text(path: Path, limit: int = LONGEST_TEXT) -> str:
    """Read a UTF-8 text file.

    Raises:
        FileError: the file is missing, not UTF-8, or has more bytes than the limit.
    """
    _check_size(path, limit)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(path, str(error)) from error


def read_json(path: Path, longest: int = LONGEST_STRING) -> Any:
    """Read a small JSON file.

    Args:
        path: the file.
        longest: largest number of characters in a string.

    Raises:
        FileError: the file is damaged, or too long, deep or large.
    """
    text = read_text(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FileError(path, f"it is no JSON: {error}") from error
    check_plain(content, path, longest=longest)
    return content


def table_reader(path: Path) -> "csv.DictReader[str]":
    """Return a reader of the rows of a CSV file, which another person may have written.

    Raises:
        FileError: the file is missing, not UTF-8, or too large.
    """
    _check_size(path, LONGEST_TABLE)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # Excel adds a mark
            return csv.DictReader(StringIO(file.read(), newline=""))
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(path, str(error)) from error


def read_rows(path: Path, header: list[str], *optional: str) -> Iterator[list[str]]:
    """Yield the rows of a CSV file after its header, one at a time, so that the caller can stop at a wrong one.

    Args:
        path: the file.
        header: columns that it has.
        optional: columns that may follow; rows get an empty cell for each if they do not.

    Raises:
        FileError: the file is missing, not UTF-8, too large, or has another header.
    """
    _check_size(path, LONGEST_TABLE)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(iter(lambda: _read_line(file, path), ""))
            first = next(rows, None)
            if first not in (header, [*header, *optional]):
                raise FileError(path, f"it starts with {first or 'nothing'}; expected the header {','.join(header)}.")
            empty = [""] * (len(header) + len(optional) - len(first))
            yield from ([*row, *empty] for row in rows)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FileError(path, str(error)) from error


def _read_line(file: TextIO, path: Path) -> str:
    line = file.readline(LONGEST_LINE + 1)
    if len(line) > LONGEST_LINE:
        raise FileError(path, f"it has a line of more than {LONGEST_LINE:,} characters.")
    return line


def check_plain(content: Any, path: Path, key: str = "it", longest: int = LONGEST_STRING) -> None:
    """Raise FileError unless the content is a small tree of lists, dicts, strings and numbers.

    A list that is in several places, as pickle and YAML allow, counts each time.

    Args:
        content: content of a file.
        path: the file, for messages.
        key: name of the content in the file, for messages.
        longest: largest number of characters in a string.
    """
    count, remaining = 1, [(content, 1)]
    while remaining:
        value, depth = remaining.pop()
        if not isinstance(value, PLAIN):
            raise FileError(path, f"{key} holds a {type(value).__name__} where plain data is expected.")
        if isinstance(value, str) and len(value) > longest:
            raise FileError(path, f"{key} holds a string of {len(value):,} characters.")
        inner = value if isinstance(value, list | tuple | dict) else ()
        count += len(inner) * (1 + isinstance(value, dict))
        if count > MOST_VALUES or depth > DEEPEST:
            raise FileError(path, f"{key} holds more than {MOST_VALUES:,} values, or more than {DEEPEST} levels.")
        inner = (*value, *value.values()) if isinstance(value, dict) else inner
        remaining += [(item, depth + 1) for item in inner]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file, by name, on the CPU.

    Raises:
        FileError: the file is missing or damaged.
    """
    _check_size(path)
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except Exception as error:  # safetensors raises its own error type for damaged files
        raise FileError(path, f"it is damaged: {error}") from error
    return tensors


def read_pickle(path: Path, old: bool = False) -> Any:
    """Read plain data that `torch.save` wrote; its tensors are memory-mapped.

    No code of the file runs: `weights_only=True` builds tensors, lists, dicts, strings and numbers only.

    Args:
        path: a file that does not change while its tensors are in use; it may be replaced by another.
        old: whether to read the format of torch before 1.6 as well; its tensors are read at once.

    Raises:
        FileError: the file has another format, would have to run code, or would take far more memory than its size.
    """
    _check_size(path)
    try:
        if archive := is_archive(path):
            check_archive(path)
        elif old:
            _check_old(path)
        else:
            raise FileError(path, "it is no plain data in the form that torch.save has written since torch 1.6.")
        return torch.load(path, "cpu", weights_only=True, mmap=archive)
    except FileError:
        raise
    except Exception as error:  # a damaged file can raise anything
        raise FileError(path, f"it is no plain data: {_cause(error)}") from error


def read_whole(path: Path) -> Any:
    """Read plain data as `read_pickle` does, and verify the checksums, which torch writes and never reads.

    Raises:
        FileError: as in `read_pickle`, or a checksum is wrong.
    """
    content = read_pickle(path)
    try:
        with zipfile.ZipFile(path) as archive:
            corrupt = archive.testzip()  # reads a megabyte at a time
    except Exception as error:  # zipfile has no common error type
        raise FileError(path, _cause(error)) from error
    if corrupt:
        raise FileError(path, f"the checksum of its entry '{corrupt}' is wrong.")
    return content


def _cause(error: Exception) -> str:
    """Return torch's message without its advice to read the file unsafely."""
    if isinstance(error, IndexError | KeyError):
        return "it is damaged."
    text = str(error) or type(error).__name__
    if name := re.search(r"GLOBAL (\S+)", text):
        return f"reading it would call '{name[1]}', which plain data never does."
    text = text.rpartition("WeightsUnpickler error: ")[2] or text
    return text.partition(" In PyTorch 2.6")[0].splitlines()[0][:300]


def _check_size(path: Path, limit: int | None = None) -> None:
    if not path.is_file():  # reading a pipe or a device might never end
        raise FileError(path, "there is no such file.")
    if limit is not None and (size := path.stat().st_size) > limit:
        raise FileError(path, f"it has {size:,} bytes; at most {limit:,} are read.")


def _check_old(path: Path) -> None:
    """Check a file as torch wrote it before 1.6: five pickles, then the numbers."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for _ in range(5):
            check_pickle(content)
