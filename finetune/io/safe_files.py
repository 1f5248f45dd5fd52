"""Files that may come from a stranger: read as plain data, or refused before anything is made of them."""

import csv
import json
import mmap
import os
import re
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import torch
from safetensors.torch import load_file
from torch import Tensor

from finetune.io.pickles import check_pickle
from finetune.io.zip_archives import check_archive, is_archive, wrong_entry

# ours have a few kilobytes, a few hundred values and four levels
LONGEST_TEXT = 2**18  # bytes of a JSON or YAML file
LONGEST_STRING = 2**12  # characters
LONGEST_TABLE = 2**27  # bytes of a CSV file: some two million images
LONGEST_LINE = 2**13  # characters of one
MOST_VALUES = 20_000
DEEPEST = 12
LONGEST_HEADER = 2**23  # bytes of a safetensors file that describe its tensors: enough for some 50,000
PLAIN = (str, int, float, type(None), list, tuple, dict)


class FileError(ValueError):
    """A file that cannot be read as plain data, or is not to be.

    Attributes:
        reason: without the name of the file.
    """

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"'{path}' cannot be read: {reason}")
        self.reason = reason


def inside(path: Path, folder: Path) -> Path:
    """The path, if it is still below the folder once every link and `..` has been followed.

    The folder itself may be a link: whoever named it meant where it leads.

    Raises:
        FileError: it leads out of the folder.
    """
    if not path.resolve().is_relative_to(folder.resolve()):
        raise FileError(
            path,
            f"it leads out of the folder, to '{path.resolve()}', and only files of the folder itself are read. Copy "
            f"the file there if it belongs to it.",
        )
    return path


def check_links(folder: Path, harmless: str = "") -> None:
    """Raise a FileError if a link below a folder leads out of it.

    Args:
        folder: to be looked through.
        harmless: a pattern of paths, such as `logs/*.log`, whose links may lead anywhere.
    """
    for home, folders, files in os.walk(folder):
        for name in (*folders, *files):
            if (path := Path(home, name)).is_symlink() and not (harmless and path.match(harmless)):
                inside(path, folder)


def read_text(path: Path) -> str:
    """A short text.

    Raises:
        FileError: no regular file, not UTF-8, or longer than any of ours.
    """
    _check_regular(path)
    if (size := path.stat().st_size) > LONGEST_TEXT:
        raise FileError(path, f"it has {size:,} bytes; a text of {LONGEST_TEXT:,} is the longest that is read.")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(path, str(error)) from error


def read_json(path: Path, longest: int = LONGEST_STRING) -> Any:
    """What is in a JSON file, if it is small.

    Args:
        path: of the file.
        longest: characters of a string in it.

    Raises:
        FileError: damaged, long, deep, or of many values.
    """
    text = read_text(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FileError(path, f"it is no JSON: {error}") from error
    check_plain(content, path, longest=longest)
    return content


def read_rows(path: Path, header: list[str]) -> Iterator[list[str]]:
    """Rows of a CSV file behind its header, one at a time: whoever knows what they hold refuses the first wrong one.

    Raises:
        FileError: no regular file, not UTF-8, another header, or larger than any of ours.
    """
    _check_regular(path)
    if (size := path.stat().st_size) > LONGEST_TABLE:
        raise FileError(path, f"it has {size:,} bytes; a table of {LONGEST_TABLE:,} is the longest that is read.")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(iter(partial(_line, file, path), ""))
            if (first := next(rows, None)) != header:
                raise FileError(path, f"it starts with {first or 'nothing'}; expected the header {','.join(header)}.")
            yield from rows
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FileError(path, str(error)) from error


def _line(file: TextIO, path: Path) -> str:
    line = file.readline(LONGEST_LINE + 1)
    if len(line) > LONGEST_LINE:
        raise FileError(path, f"it has a line of more than {LONGEST_LINE:,} characters.")
    return line


def check_plain(content: Any, path: Path, key: str = "it", longest: int = LONGEST_STRING) -> None:
    """Raise a FileError unless the content is a small tree of lists, dicts, strings and numbers.

    Lists that hold the same list many times over, as pickle and YAML can write them, count with all they stand for.

    Args:
        content: of a file.
        path: of the file.
        key: where in the file.
        longest: characters of a string.
    """
    level, values, depth = [content], 1, 0
    while level:
        for value in level:
            if not isinstance(value, PLAIN):
                raise FileError(path, f"{key} holds a {type(value).__name__} where plain data is expected.")
            if isinstance(value, str) and len(value) > longest:
                raise FileError(path, f"{key} holds a string of {len(value):,} characters.")
        groups = [value for value in level if isinstance(value, list | tuple | dict)]
        values += sum(len(group) * (1 + isinstance(group, dict)) for group in groups)
        depth += 1
        if values > MOST_VALUES or depth > DEEPEST:
            raise FileError(path, f"{key} holds more than {MOST_VALUES:,} values, or more than {DEEPEST} levels.")
        inner = [[*group, *group.values()] if isinstance(group, dict) else group for group in groups]
        level = [value for group in inner for value in group]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, by name, on the CPU.

    Raises:
        FileError: no such file, or a damaged one.
    """
    _check_regular(path)
    with path.open("rb") as file:
        header, size = int.from_bytes(file.read(8), "little"), path.stat().st_size
    if header > min(LONGEST_HEADER, size - 8):
        raise FileError(path, f"it is damaged: it announces a header of {header:,} bytes in a file of {size:,}.")
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except Exception as error:  # safetensors has an exception type of its own for damaged files
        raise FileError(path, f"it is damaged: {error}") from error
    return tensors


def read_pickle(path: Path, old: bool = False) -> Any:
    """What `torch.save` wrote, if it is plain data; tensors are read from the file when they are used.

    Nothing of the file is called: torch's own unpickler knows tensors, lists, dicts, strings and numbers only.

    Args:
        path: of a file that stays as it is while its tensors are in use; another one may take its name.
        old: whether the format of torch before 1.6 will do, too; its tensors are read at once.

    Raises:
        FileError: another kind of file, one that would have to run code to be read, or one that would become much
            larger in memory than it is on the disk.
    """
    _check_regular(path)
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
    except Exception as error:  # unpickling raises whatever the file makes it raise
        raise FileError(path, f"it is no plain data: {_cause(error)}") from error


def read_whole(path: Path) -> Any:
    """What `read_pickle` gives, of a file whose checksums are right: torch writes them, and does not look at them.

    Raises:
        FileError: as there, or a byte of the file is not what was written.
    """
    content = read_pickle(path)
    try:
        wrong = wrong_entry(path)
    except Exception as error:  # zipfile has no type of error for all that can be wrong
        raise FileError(path, _cause(error)) from error
    if wrong:
        raise FileError(path, f"the checksum of its entry '{wrong}' is wrong.")
    return content


def _cause(error: Exception) -> str:
    """What torch says, without its advice to read the file unsafely."""
    text = str(error) or type(error).__name__
    if name := re.search(r"GLOBAL (\S+)", text):
        return f"to read it, '{name[1]}' would have to be called or made, which only the file asks for."
    return (text.rpartition("WeightsUnpickler error: ")[2] or text).splitlines()[0][:300]


def _check_regular(path: Path) -> None:
    if not path.is_file():  # a pipe or a device would never end
        raise FileError(path, "there is no such file.")


def _check_old(path: Path) -> None:
    """Look through a file as torch wrote it before 1.6: five pickles, then the numbers."""
    with suppress(tarfile.TarError), tarfile.open(path, "r:"):  # which torch tries first
        raise FileError(path, "it is a tar archive, as torch wrote before 0.2. Save it again with a newer torch.")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for _ in range(5):
            check_pickle(content)
