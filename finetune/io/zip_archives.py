"""Zip archives as `torch.save` writes them: told from others before anything is unpacked, and their checksums."""

import io
import os
import struct
import zipfile
from pathlib import Path
from typing import IO, Any

from finetune.io.pickles import LONGEST, check_pickle

END, END_64, LOCATOR = struct.Struct("<4s4H2LH"), struct.Struct("<4sQ2H2L4Q"), struct.Struct("<4sLQL")


def is_archive(path: Path) -> bool:
    """Whether a file begins like a zip archive, which is what torch goes by."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def check_archive(path: Path) -> None:
    """Go through an archive: every entry as it is, and each in a place of its own; its pickles of plain data.

    Raises:
        ValueError: it is not as torch writes it.
        Exception: of whatever kind `zipfile` raises for a damaged one.
    """
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        _check_directory(file)
        entries = archive.infolist()
        _check_entries(entries, path.stat().st_size)
        for entry in entries:
            if entry.filename.lower().endswith("data.pkl"):  # torch's reader takes either case
                check_pickle(io.BytesIO(_content(file, entry)))


def wrong_entry(path: Path) -> str | None:
    """The first entry of a checked archive whose checksum is wrong; read a megabyte at a time."""
    with zipfile.ZipFile(path) as archive:
        return archive.testzip()


def _check_directory(file: IO[bytes]) -> None:
    """Raise unless the directory is before the end, and where the end says: Python goes by the one, torch by the other.

    Source: 4.3.14 to 4.3.16 of https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT
    """
    end = file.seek(0, os.SEEK_END) - END.size
    signature, *_, length, start, comment = _read(file, END, end)
    locator, _, place, _ = _read(file, LOCATOR, end - LOCATOR.size)
    found, expected = signature, b"PK\x05\x06"
    if locator == b"PK\x06\x07":  # torch writes the larger form, too
        end -= LOCATOR.size + END_64.size
        found, *_, length, start = _read(file, END_64, end)
        expected = b"PK\x06\x06"
        comment = comment or place != end
    if signature != b"PK\x05\x06" or found != expected or comment or start + length != end:
        raise ValueError("its directory is not in front of its end, where torch.save writes it.")


def _read(file: IO[bytes], form: struct.Struct, place: int) -> tuple[Any, ...]:
    file.seek(place)
    return form.unpack(file.read(form.size))


def _check_entries(entries: list[zipfile.ZipInfo], size: int) -> None:
    stored = [entry.compress_type == zipfile.ZIP_STORED and entry.compress_size == entry.file_size for entry in entries]
    if not all(stored):
        worst = max(
            (e for e, is_stored in zip(entries, stored, strict=True) if not is_stored), key=lambda e: e.file_size
        )
        raise ValueError(
            f"its entry '{worst.filename}' is compressed, from {worst.file_size:,} bytes to {worst.compress_size:,}, "
            f"which torch.save never does."
        )
    declared = sum(entry.file_size for entry in entries)
    if declared > size:
        raise ValueError(f"its entries have {declared:,} bytes, in a file of {size:,}.")


def _content(file: IO[bytes], entry: zipfile.ZipInfo) -> bytes:
    """An entry's bytes, as torch takes them: it never looks at the checksum, which may be left out."""
    if entry.file_size > LONGEST:
        raise ValueError(f"its entry '{entry.filename}' has {entry.file_size:,} bytes; {LONGEST:,} are the most.")
    file.seek(entry.header_offset + 26)
    name, extra = struct.unpack("<2H", file.read(4))
    file.seek(entry.header_offset + 30 + name + extra)
    return file.read(entry.file_size)
