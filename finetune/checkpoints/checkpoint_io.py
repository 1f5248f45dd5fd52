"""Checkpoint files: written aside and in the background, synced, verified, and only then given their names."""

import os
import re
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins import CheckpointIO
from torch import Tensor

from finetune.io.atomic_write import PART as PART  # which those who know of checkpoints alone take from here
from finetune.io.atomic_write import sync_file, sync_folder
from finetune.io.safe_files import FileError, read_pickle, read_whole

PLAIN = (type(None), bool, int, float, str, bytes, torch.dtype)


class CheckpointFiles(CheckpointIO):
    """What a trainer saves through: the training goes on as soon as everything has been copied.

    Whatever a file held before stays until the new one is complete on the disk. A write that fails, because the disk
    is full for one, raises at the next save or `wait`.
    """

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None
        self._last: Future[None] | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Copy what is to be saved, and write it in the background; waits for the file before it."""
        self.wait()
        self.enqueue(partial(write, snapshot(checkpoint), Path(path)))

    def enqueue(self, action: Callable[[], None]) -> None:
        """Do something behind what is being written, unless that fails."""
        before = self._last
        self._thread = self._thread or ThreadPoolExecutor(1, "checkpoint")

        def run() -> None:
            if before is not None:
                before.result()
            action()

        self._last = self._thread.submit(run)

    def wait(self) -> None:
        """Return when everything is on the disk.

        Raises:
            OSError: what could not be written.
        """
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read plain data, whatever `weights_only` says: nothing in a file is ever executed."""
        self.wait()
        content: dict[str, Any] = torch.load(path, map_location or "cpu", weights_only=True)
        return content

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a file behind what is being written."""
        self.enqueue(partial(Path(path).unlink, missing_ok=True))

    def teardown(self) -> None:
        """Wait for the last file, and end the thread."""
        try:
            self.wait()
        finally:
            thread, self._thread = self._thread, None
            if thread is not None:
                thread.shutdown()


def after_write(trainer: pl.Trainer, action: Callable[[], None]) -> None:
    """Do something when the trainer's latest checkpoint is complete."""
    files = trainer.strategy.checkpoint_io
    if isinstance(files, CheckpointFiles):
        files.enqueue(action)
    else:  # it does not write in the background
        action()


def wait(trainer: pl.Trainer) -> None:
    """Return, on all ranks, when the trainer's checkpoints are on the disk."""
    if isinstance(files := trainer.strategy.checkpoint_io, CheckpointFiles):
        files.wait()
    trainer.strategy.barrier("checkpoint files")


def snapshot(content: Any, known: dict[Any, Tensor] | None = None, place: str = "") -> Any:
    """A copy of nested lists, dicts and tensors, on the CPU; what was stored once is copied once.

    Args:
        content: plain data.
        known: tensors that were copied already.
        place: of the content in the checkpoint.

    Raises:
        TypeError: something that could not be read back as plain data.
    """
    known = {} if known is None else known
    if isinstance(content, dict):
        return {key: snapshot(value, known, f"{place}.{key}") for key, value in content.items()}
    if isinstance(content, list | tuple):
        copies = [snapshot(value, known, f"{place}.{index}") for index, value in enumerate(content)]
        return copies if isinstance(content, list) else tuple(copies)
    if isinstance(content, Tensor):
        return _copied(content, known)
    if type(content) not in PLAIN:
        raise TypeError(
            f"the checkpoint's entry '{place[1:]}' is a {type(content).__name__}, which is no plain data and could "
            f"not be read back. Make it a number, a string, a tensor, or a list or dict of them."
        )
    return content


def _copied(tensor: Tensor, known: dict[Any, Tensor]) -> Tensor:
    key = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
    if key not in known or not tensor.numel():
        known[key] = tensor.detach().to("cpu", copy=True)
    return known[key]


def write(content: Any, path: Path) -> None:
    """Write a checkpoint so that at any moment the path holds either the whole old file or the whole new one.

    Raises:
        OSError: the file could not be written, or reads back otherwise than it was written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + PART)
    try:
        with part.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        if found := find_corruption(part):
            raise OSError(f"'{part}' does not read back as it was written: {found}. Is the disk in order?")
        part.replace(path)
    except Exception as error:  # torch's writer reports a full disk as a RuntimeError without a number
        with suppress(OSError):  # the same as before, perhaps
            part.unlink(missing_ok=True)
        raise OSError(f"the checkpoint '{path}' could not be written: {error}") from error
    sync_folder(path.parent)


def find_corruption(path: Path) -> str | None:
    """What is wrong with a checkpoint file, by its checksums and by reading it; None if nothing.

    Nothing of it is unpacked, and its tensors pass by a megabyte at a time.
    """
    try:
        read_whole(path)
    except FileError as error:
        return error.reason.removesuffix(".")
    return None


def next_intact_checkpoint(path: Path) -> Path | None:
    """The checkpoint to take instead of a damaged one: the next of its kind, best or last, or else of the other."""
    names = {other: re.fullmatch(r"(best|last)(?:_(\d+))?\.ckpt", other.name) for other in path.parent.glob("*.ckpt")}
    kind = path.name[:4]
    ranks = {other: (name[1] != kind, int(name[2] or 1)) for other, name in names.items() if name and other != path}
    return next((other for other in sorted(ranks, key=ranks.__getitem__) if find_corruption(other) is None), None)


def rotate_in(written: Path, best: int | None, keep_best: int, keep_last: int) -> None:
    """Give a written checkpoint its names: `last.ckpt`, and `best.ckpt` if it is the best.

    Earlier ones move on: `last_2.ckpt` is the one before the last, `best_2.ckpt` the second best. Each name holds a
    whole checkpoint at any moment. The best comes first: a process that is killed in between has an older last
    checkpoint, puts the best in order again by `restore_best_order`, and makes this one again.

    Args:
        written: a complete file in the folder of the checkpoints; its own name goes.
        best: its rank among the best, from 0; None if it is not among them.
        keep_best: how many are among the best, with this one.
        keep_last: how many of the last stay; 0 if this one is not to be the last.
    """
    folder = written.parent
    if best is not None:
        shift_ranks(folder, "best", best, keep_best)
        link(written, folder / numbered("best", best))
    if keep_last:
        shift_ranks(folder, "last", 0, keep_last)
        written.replace(folder / numbered("last", 0))
    else:
        written.unlink()
    sync_folder(folder)


def shift_ranks(folder: Path, name: str, rank: int, keep: int) -> None:
    """Move the checkpoints from a rank on by one, and the last one out."""
    for place in reversed(range(rank, keep - 1)):
        if (path := folder / numbered(name, place)).exists():
            link(path, folder / numbered(name, place + 1))


def restore_best_order(folder: Path, steps: Sequence[int]) -> list[int]:
    """Give the best checkpoints the names of their ranks again, as they were when the one that goes on was written.

    A process that is killed while names are given leaves a better one, which will be made again, or the same twice.

    Args:
        folder: of the checkpoints.
        steps: of the best, in order.

    Returns:
        Which of the steps, as places in the list, have a file.
    """
    files = sorted(folder.glob("best*.ckpt"), key=lambda path: (len(path.name), path.name))
    left, chosen = {path: _step(path) for path in files}, {}
    for place, wanted in enumerate(steps):
        for path in [path for path, step in left.items() if step == wanted][:1]:
            chosen[place] = path
            del left[path]
    moves = {path: folder / numbered("best", rank) for rank, path in enumerate(chosen.values())}
    moves = {path: name for path, name in moves.items() if path != name}
    aside = {name: name.with_name(f"moved_{name.name}{PART}") for name in moves.values()}
    for path, name in moves.items():
        link(path, aside[name])
    for name, part in aside.items():
        part.replace(name)
    sync_folder(folder)
    return list(chosen)


def _step(path: Path) -> int | None:
    """The optimizer step of a checkpoint; None where it does not say."""
    with suppress(FileError):
        content = read_pickle(path)
        return content.get("global_step") if isinstance(content, dict) else None
    return None


def numbered(name: str, rank: int) -> str:
    """The file name of a rank.

    >>> numbered("last", 0), numbered("last", 1)
    ('last.ckpt', 'last_2.ckpt')
    """
    return f"{name}.ckpt" if rank == 0 else f"{name}_{rank + 1}.ckpt"


def link(source: Path, target: Path) -> None:
    """Let a second name hold the same file, without writing it again where the file system can do that."""
    part = target.with_name(target.name + PART)
    part.unlink(missing_ok=True)
    try:
        os.link(source, part)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, part)
        sync_file(part)
    part.replace(target)
    part.unlink(missing_ok=True)  # it stays where the target was the same file already
