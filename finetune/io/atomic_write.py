"""Files that are on the disk whole, or as they were before."""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

PART = ".part"  # a file that is still being written ends with it


def replace_text(path: Path, text: str) -> None:
    """Write a text so that at any moment the path holds either the whole old one or the whole new one."""
    write_together(path.parent, {path.name: lambda part: part.write_text(text, encoding="utf-8")})


def write_together(folder: Path, writers: Mapping[str, Callable[[Path], object]]) -> None:
    """Write files that belong together aside, and give them their names when all of them are on the disk.

    Args:
        folder: of the files.
        writers: name -> what writes the file to a path.
    """
    parts = {folder / name: folder / f"{name}{PART}" for name in writers}
    try:
        for part, write in zip(parts.values(), writers.values(), strict=True):
            write(part)
            sync_file(part)
        for path, part in parts.items():
            part.replace(path)
    except BaseException:
        for part in parts.values():
            with suppress(OSError):  # the same as before, perhaps
                part.unlink(missing_ok=True)
        raise
    sync_folder(folder)


def sync_file(path: Path) -> None:
    """Return when what was written to a file is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make names durable, where the system can open a folder."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)
