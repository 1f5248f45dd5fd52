"""Checkpoint files: written in the background, atomically, and verified before they get their names."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins import CheckpointIO
from torch import Tensor

from finetune.io.atomic_write import write_together
from finetune.io.safe_files import FileError, read_whole

PLAIN = (type(None), bool, int, float, str, torch.dtype)


class CheckpointFiles(CheckpointIO):
    """The checkpoint plugin of a trainer: training continues as soon as everything has been copied.

    A file keeps its old content until the new one is complete on the disk. A write that fails, for example because the
    disk is full, raises at the next save or `wait`.
    """

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None
        self._last: Future[None] | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Copy a checkpoint and write it in the background, after waiting for the previous file."""
        self.wait()
        self.enqueue(partial(write, snapshot(checkpoint), Path(path)))

    def enqueue(self, action: Callable[[], None]) -> None:
        """Run a function after the pending writes, unless one of them fails."""
        previous = self._last
        self._thread = self._thread or ThreadPoolExecutor(1, "checkpoint")

        def run() -> None:
            if previous is not None:
                previous.result()
            action()

        self._last = self._thread.submit(run)

    def wait(self) -> None:
        """Wait until everything is on the disk.

        Raises:
            OSError: a file could not be written.
        """
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint as plain data, whatever `weights_only` is, so that no code in a file runs."""
        self.wait()
        content: dict[str, Any] = torch.load(path, map_location or "cpu", weights_only=True)
        return content

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a file after the pending writes."""
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
    """Run a function when the latest checkpoint of the trainer is complete."""
    files = trainer.strategy.checkpoint_io
    if isinstance(files, CheckpointFiles):
        files.enqueue(action)
    else:  # it does not write in the background
        action()


def wait(trainer: pl.Trainer) -> None:
    """Wait, on all ranks, until the checkpoints of the trainer are on the disk."""
    if isinstance(files := trainer.strategy.checkpoint_io, CheckpointFiles):
        files.wait()
    trainer.strategy.barrier("checkpoint files")


def snapshot(content: Any, copies: dict[Any, Tensor] | None = None, key: str = "") -> Any:
    """Copy nested lists, dicts and tensors to the CPU; a tensor that is in several places is copied once.

    Args:
        content: plain data.
        copies: tensors that were copied already.
        key: dotted key of the content in the checkpoint, for messages.

    Raises:
        TypeError: a value could not be read back as plain data.
    """
    copies = {} if copies is None else copies
    if isinstance(content, dict):
        return {name: snapshot(value, copies, f"{key}.{name}") for name, value in content.items()}
    if isinstance(content, list | tuple):
        items = [snapshot(value, copies, f"{key}.{index}") for index, value in enumerate(content)]
        return items if isinstance(content, list) else tuple(items)
    if isinstance(content, Tensor):
        return _copied(content, copies)
    if type(content) not in PLAIN:
        raise TypeError(
            f"the checkpoint's entry '{key[1:]}' is a {type(content).__name__}, which is no plain data and could "
            f"not be read back. Make it a number, a string, a tensor, or a list or dict of them."
        )
    return content


def _copied(tensor: Tensor, copies: dict[Any, Tensor]) -> Tensor:
    memory = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
    if memory not in copies or not tensor.numel():
        copies[memory] = tensor.detach().to("cpu", copy=True)
    return copies[memory]


def write(content: Any, path: Path) -> None:
    """Write a checkpoint atomically, and verify it before it gets its name.

    Raises:
        OSError: the file could not be written, or does not read back as it was written.
    """
    try:
        write_together(path.parent, {path.name: partial(_save, content)}, verify=_verify)
    except Exception as error:  # torch reports a full disk as a RuntimeError without an error number
        raise OSError(f"the checkpoint '{path}' could not be written: {error}") from error


def _save(content: Any, path: Path) -> None:
    with path.open("wb") as file:  # Python's file reports a full disk; torch's own may end the process
        torch.save(content, file)


def _verify(path: Path) -> None:
    if corruption := find_corruption(path):
        raise OSError(f"'{path}' does not read back as it was written: {corruption}. Is the disk in order?")


def find_corruption(path: Path) -> str | None:
    """Return what is wrong with a checkpoint file by its checksums and by reading it, or None.

    Nothing in the file is decompressed, and its tensors are read a megabyte at a time.
    """
    try:
        read_whole(path)
    except FileError as error:
        return error.reason.removesuffix(".")
    return None
