"""Checks of zip archives that `torch.save` writes, before torch reads them."""

import io
import os
import zipfile
from pathlib import Path

from finetune.io.pickles import MAX_BYTES, check_pickle


def is_archive(path: Path) -> bool:
    """Return whether a file starts like a zip archive, as torch tells its formats apart."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def check_archive(path: Path) -> None:
    """Raise ValueError, or an error of `zipfile`, if an archive could take much more memory than its size."""
    with zipfile.ZipFile(path) as archive:
        _check_directory(path, archive)
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
                raise ValueError(
                    f"its entry '{entry.filename}' is compressed, from {entry.file_size:,} bytes to "
                    f"{entry.compress_size:,}, which torch.save never does."
                )
            if entry.external_attr & 0x10:  # torch would leave its memory as it is
                raise ValueError(f"its entry '{entry.filename}' is marked as a folder.")
        declared, size = sum(entry.file_size for entry in archive.infolist()), path.stat().st_size
        if declared > size:
            raise ValueError(f"its entries have {declared:,} bytes, in a file of {size:,}.")
        for entry in archive.infolist():
            if entry.filename.lower().endswith("data.pkl"):  # torch ignores the case
                if entry.file_size > MAX_BYTES:
                    raise ValueError(f"its pickle has {entry.file_size:,} bytes; {MAX_BYTES:,} are the most.")
                check_pickle(io.BytesIO(archive.read(entry)))


def _check_directory(path: Path, archive: zipfile.ZipFile) -> None:
    """Raise ValueError if Python and torch could find different directories.

    Python takes the one right before the end records, torch the one that these name.

    Source: 4.3.14 to 4.3.16 of https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(-min(size, 98), os.SEEK_END)
        tail = file.read().rjust(98)
    record_64, locator, end = tail[:56], tail[56:76], tail[76:]
    start, right = end[16:20], end.startswith(b"PK\x05\x06") and not archive.comment
    if locator.startswith(b"PK\x06\x07"):
        start = record_64[48:56]
        right &= record_64.startswith(b"PK\x06\x06") and int.from_bytes(locator[8:16], "little") == size - 98
    if not right or int.from_bytes(start, "little") != archive.start_dir:
        raise ValueError("its directory is not in front of its end, where torch.save writes it.")
