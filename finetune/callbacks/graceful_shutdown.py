"""Ends a training that is told to stop (SIGTERM, SIGUSR1, Ctrl-C): finishes the step, saves, leaves."""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import lightning.pytorch as pl
import torch
from torch import distributed

from finetune.checkpoints.checkpoint_io import wait
from finetune.engine.launcher import stop_launcher_monitor
from finetune.engine.loop_state import accumulates, can_save, out_of_steps, rewind_before_validation

SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []))
CODES = {signal.SIGINT: 130}  # what the process ends with; 143 for the others, which clusters send


class TrainingInterrupted(SystemExit):
    """A training that was told to stop and has saved everything.

    Attributes:
        signal: that told it.
    """

    def __init__(self, received: signal.Signals) -> None:
        super().__init__(CODES.get(received, 143))
        self.signal = received

    def __str__(self) -> str:
        return f"stopped by {self.signal.name}"


class GracefulShutdown(pl.Callback):
    """Saves a checkpoint and raises `TrainingInterrupted` on all ranks, as soon as one of them is told to stop.

    It stops behind the optimizer step that is under way, or in a validation, which is then made again by the training
    that goes on. With several ranks a validation is finished first: they have different numbers of batches and could
    not agree. A second Ctrl-C ends the process at once.
    """

    def __init__(self) -> None:
        self._received: signal.Signals | None = None
        self._agreed: signal.Signals | None = None
        self._group: Any = None  # of all ranks, if there are several
        self._before: dict[signal.Signals, Any] = {}
        self._validating = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Keep Lightning from listening: it ends with 0, forgets what came in a last batch, and waits for all ranks."""
        trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen, so that all is saved before the process ends."""
        self._received, self._agreed, self._validating = None, None, False
        if trainer.world_size > 1:
            # of CPUs, so that nobody waits for a GPU to learn that nothing happened
            self._group = distributed.new_group(backend="gloo")
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop behind a step."""
        if self._agree() and can_save(trainer):
            self._stop(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop before a validation, rather than behind the batch that it belongs to."""
        fits = trainer.state.fn == "fit"
        # behind the last of `max_steps` Lightning would leave it out
        self._validating = fits and not accumulates(trainer) and not out_of_steps(trainer)
        if self._validating and self._agree():
            self._stop(trainer)

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Stop in a validation."""
        if self._validating and trainer.world_size == 1 and self._agree():
            self._stop(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note that what is saved from here on has it behind it."""
        self._validating = False

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop between two epochs; the one behind has been saved. Before the first there is nothing to save yet."""
        if trainer.global_step and self._agree():
            self._leave(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop behind the last epoch, and listen no longer."""
        stopped = self._agree()
        self._listen_no_longer()
        if stopped:
            self._leave(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """A checkpoint that is written in a validation is one from just before it."""
        if self._validating:
            checkpoint["loops"]["fit_loop"] = rewind_before_validation(checkpoint["loops"]["fit_loop"])

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Listen no longer."""
        self._listen_no_longer()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = signal.Signals(number)
        # not through logging or print, which may be in the middle of a line
        os.write(2, f"\n{self._received.name}: finishing the step, then saving; Ctrl-C ends it at once\n".encode())

    def _agree(self) -> bool:
        """Whether any rank was told to stop; asked by all of them at the same place."""
        if self._agreed is None:
            told = int(self._received or 0)
            if self._group is not None:
                numbers = torch.tensor([told])
                distributed.all_reduce(numbers, distributed.ReduceOp.MAX, group=self._group)
                told = int(numbers)
            self._agreed = signal.Signals(told) if told else None
        return self._agreed is not None

    def _stop(self, trainer: pl.Trainer) -> NoReturn:
        save: Callable[[pl.Trainer], None] | None = getattr(trainer.checkpoint_callback, "save", None)
        if save is not None:
            save(trainer)
        else:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt", weights_only=False)
        self._leave(trainer)

    def _leave(self, trainer: pl.Trainer) -> NoReturn:
        assert self._agreed is not None
        stop_launcher_monitor(trainer)
        wait(trainer)  # or another rank, which writes nothing, would be gone before all is saved
        raise TrainingInterrupted(self._agreed)

    def _listen_no_longer(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before = {}
