"""Decoded images and targets that are kept for later epochs, loading processes and runs.

A file has all pixels, one sample after another, and a second one has a row for each sample that says where they are.
Any number of processes may fill them at once without a lock: each appends, then writes the row. A row counts only if
its checksum is that of the pixels, so whatever else is there, after a crash or on a full disk, is decoded again.
"""

import hashlib
import os
import struct
import sys
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from torch import Tensor

from finetune.data.caching.decoding_settings import record_settings
from finetune.data.caching.file_cache import create_cache_folder
from finetune.data.images.decode import DECODING
from finetune.data.records import DataError, Record

ROW = struct.Struct("<QIIIIQ")  # offset; channels, height and width of the image; channels of the target; checksum
INDICES = 0  # channels of a target of class indices


class PixelCache:
    """Images and targets, each decoded by the first process that asks for it.

    Args:
        pixels: path of the file of pixels.
        rows: path of the file of rows.
    """

    def __init__(self, pixels: str, rows: str) -> None:
        self.paths = (pixels, rows)
        self._open: tuple[int, int, int] | None = None  # process and its descriptors, which have a position each

    def read(self, index: int, decode: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Return the image (C, H, W) and the target (H, W) or (K, H, W) of a sample, both uint8 and the caller's own.

        Args:
            index: of the sample.
            decode: reads its files.
        """
        pixels, rows = self._descriptors()
        row = os.pread(rows, ROW.size, index * ROW.size)
        if len(row) == ROW.size and (known := _read(pixels, *ROW.unpack(row))) is not None:
            return known
        image, target = decode()
        self._append(index, image, target)
        return image, target

    def _append(self, index: int, image: Tensor, target: Tensor) -> None:
        pixels, rows = self._descriptors()
        content = image.numpy().tobytes() + target.numpy().tobytes()
        classes = INDICES if target.dim() == 2 else target.shape[0]
        try:
            written = os.write(pixels, content)  # one call, so that those of other processes cannot be in between
            end = os.lseek(pixels, 0, os.SEEK_CUR)
            if written == len(content):
                row = ROW.pack(end - written, *image.shape, classes, _checksum(content))
                os.pwrite(rows, row, index * ROW.size)
        except OSError:  # full: the rest is decoded each time
            return

    def _descriptors(self) -> tuple[int, int]:
        if self._open is None or self._open[0] != os.getpid():
            pixels, rows = self.paths
            self._open = (os.getpid(), os.open(pixels, os.O_RDWR | os.O_APPEND), os.open(rows, os.O_RDWR))
            weakref.finalize(self, _close, *self._open)
        return self._open[1:]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_open": None}


def _close(process: int, *descriptors: int) -> None:
    if process == os.getpid():
        for descriptor in descriptors:
            os.close(descriptor)


def _read(
    pixels: int, offset: int, channels: int, height: int, width: int, classes: int, checksum: int
) -> tuple[Tensor, Tensor] | None:
    """Return the image and target at a place of the file; None if they are not there."""
    size, of_image = (channels + max(classes, 1)) * height * width, channels * height * width
    if not size or offset + size > os.fstat(pixels).st_size:
        return None
    content = bytearray(size)
    if os.preadv(pixels, [content], offset) != size or _checksum(content) != checksum:
        return None
    values = torch.frombuffer(content, dtype=torch.uint8)
    shape = (height, width) if classes == INDICES else (classes, height, width)
    return values[:of_image].view(channels, height, width), values[of_image:].view(shape)


def _checksum(content: bytes | bytearray) -> int:
    """Return the sum of the words of 8 bytes: it tells what is missing, in a tenth of the time of a CRC."""
    words, rest = divmod(len(content), 8)
    total = np.frombuffer(content, np.uint64, count=words).sum()
    return (int(total) + int.from_bytes(content[len(content) - rest :], "little")) % 2**64


def memory_cache() -> PixelCache:
    """Return a cache in memory that this process and its loading processes share; it ends with it, however it ends.

    Raises:
        DataError: the system is not Linux.
    """
    if not sys.platform.startswith("linux"):
        raise DataError("data.cache=ram needs Linux. Set data.cache=disk, which the system keeps in memory too.")
    descriptors = [os.memfd_create(f"finetune-{name}") for name in ("pixels", "rows")]
    cache = PixelCache(*(f"/proc/{os.getpid()}/fd/{descriptor}" for descriptor in descriptors))
    weakref.finalize(cache, _close, os.getpid(), *descriptors)
    return cache


def disk_cache(records: Sequence[Record], channels: int, folder: Path, reduce: int = 1) -> PixelCache:
    """Return a cache in files that later runs on the same files with the same settings share.

    Args:
        records: in the order of their indices.
        channels: of the images.
        folder: of the cache.
        reduce: 2, 4 or 8 for what is decoded at 1/2, 1/4 or 1/8 of its size.

    Raises:
        DataError: what decides how a record is decoded cannot be told.
        OSError: the folder cannot be written to.
    """
    digest = hashlib.blake2b(f"{DECODING} {PIL.__version__} {reduce} {ROW.format}".encode(), digest_size=12)
    for record in records:
        settings = record_settings(record, channels)
        if settings is None or not record.image.paths:
            raise DataError(
                f"data.cache=disk cannot tell when {record.image.description} would be decoded to other pixels: it is "
                f"no file, or of a class outside this package. Set data.cache=ram."
            )
        states = ((os.path.abspath(path), os.stat(path)) for path in record.paths)
        files = [f"{path}\0{state.st_size}\0{state.st_mtime_ns}" for path, state in states]
        digest.update("\0".join((settings, *files, "")).encode("utf-8", "surrogateescape"))
    create_cache_folder(folder)
    (folder / "pixels").mkdir(exist_ok=True)
    paths = [folder / "pixels" / f"{digest.hexdigest()}.{name}" for name in ("pixels", "rows")]
    for path in paths:
        path.touch(mode=0o600)
    return PixelCache(*map(str, paths))
