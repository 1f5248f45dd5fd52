"""Atomic writes: a path holds either its old file or the complete new one, also after a crash."""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

PART = ".part"  # suffix of a temporary file that is still being written


def replace_text(path: Path, text: str) -> None:
    """Replace a text file atomically."""
    write_together(path.parent, {path.name: lambda part: part.write_text(text, encoding="utf-8", newline="")})


def write_together(
    folder: Path, writers: Mapping[str, Callable[[Path], object]], verify: Callable[[Path], object] | None = None
) -> None:
    """Write files to temporary names, sync them, and rename them when all are on the disk.

    Args:
        folder: folder of the files; created if missing.
        writers: file name -> function that writes the file to a path.
        verify: function that raises if a synced file does not read back as it was written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = {folder / name: folder / f"{name}{PART}" for name in writers}
    try:
        for part, write in zip(parts.values(), writers.values(), strict=True):
            write(part)
            sync_file(part)
            if verify is not None:
                verify(part)
        for path, part in parts.items():
            part.replace(path)
    except BaseException:
        for part in parts.values():
            with suppress(OSError):  # unlinking may fail for the same reason
                part.unlink(missing_ok=True)
        raise
    sync_folder(folder)


def sync_file(path: Path) -> None:
    """Wait until the content of a file is on the disk."""
    with path.open("r+b") as file:  # Windows syncs only files that are open for writing
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, if the system can open folders."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
