"""The callback that ends a training on SIGTERM, SIGUSR1 or Ctrl-C after it has finished the step and saved."""

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
from finetune.engine.lightning_private import disable_signal_handlers, is_accumulating, stop_launcher_monitor
from finetune.engine.loop_state import can_save, is_out_of_steps, rewind_before_validation

SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []))
EXIT_CODES = {signal.SIGINT: 130}  # 143 for the other signals, which clusters send


class TrainingInterrupted(SystemExit):
    """A training that was stopped by a signal and has saved everything.

    Attributes:
        signal: signal that stopped it.
    """

    def __init__(self, received: signal.Signals) -> None:
        super().__init__(EXIT_CODES.get(received, 143))
        self.signal = received

    def __str__(self) -> str:
        return f"stopped by {self.signal.name}"


class GracefulShutdown(pl.Callback):
    """A callback that saves and raises `TrainingInterrupted` on all ranks once one of them has received a signal.

    It stops after the current optimizer step, or inside a validation, which the resumed training then runs again. With
    several ranks it finishes the validation first: ranks have different numbers of batches and could not synchronize.
    A second Ctrl-C ends the process at once.
    """

    def __init__(self) -> None:
        self._received: signal.Signals | None = None  # by this rank
        self._agreed: signal.Signals | None = None  # received by any rank
        self._group: Any = None  # of all ranks, if there are several
        self._handlers: dict[signal.Signals, Any] = {}  # to be restored
        self._is_validating = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Disable Lightning's signal handlers."""
        disable_signal_handlers(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Install the signal handlers."""
        self._received, self._agreed, self._is_validating = None, None, False
        if trainer.world_size > 1:
            # on the CPU, so that asking for signals does not wait for a GPU
            self._group = distributed.new_group(backend="gloo")
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._receive) for number in SIGNALS}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop after a step from which the training can be resumed exactly."""
        if self._is_signaled() and can_save(trainer):
            self._save_and_leave(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop before a validation; after the batch before it, Lightning would skip the validation on resume."""
        is_fitting = trainer.state.fn == "fit"
        # nor would Lightning run it again if it follows the last of `max_steps`
        self._is_validating = is_fitting and not is_accumulating(trainer) and not is_out_of_steps(trainer)
        if self._is_validating and self._is_signaled():
            self._save_and_leave(trainer)

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Stop inside a validation, if there is one rank."""
        if self._is_validating and trainer.world_size == 1 and self._is_signaled():
            self._save_and_leave(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let later checkpoints include the validation."""
        self._is_validating = False

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save and stop after an epoch that no callback saves."""
        if self._saver(trainer) is None and self._is_signaled():
            self._save_and_leave(trainer)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop between two epochs, of which the first has been saved; before the first epoch nothing is to be saved."""
        if trainer.global_step and self._is_signaled():
            self._leave(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the signal handlers, and stop if a signal arrived in the last epoch, which has been saved."""
        is_signaled = self._is_signaled()
        self._restore_handlers()
        if is_signaled:
            self._leave(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Rewind a checkpoint that is saved inside a validation to the start of the validation."""
        if self._is_validating:
            checkpoint["loops"]["fit_loop"] = rewind_before_validation(checkpoint["loops"]["fit_loop"])

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Restore the signal handlers."""
        self._restore_handlers()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = signal.Signals(number)
        # not by logging or print, which the signal may have interrupted
        os.write(2, f"\n{self._received.name}: finishing the step, then saving; Ctrl-C ends it at once\n".encode())

    def _is_signaled(self) -> bool:
        """Return whether any rank has received a signal. Collective."""
        if self._agreed is None:
            number = int(self._received or 0)
            if self._group is not None:
                largest = torch.tensor([number])
                distributed.all_reduce(largest, distributed.ReduceOp.MAX, group=self._group)
                number = int(largest)
            self._agreed = signal.Signals(number) if number else None
        return self._agreed is not None

    def _saver(self, trainer: pl.Trainer) -> Callable[[pl.Trainer], None] | None:
        save: Callable[[pl.Trainer], None] | None = getattr(trainer.checkpoint_callback, "save", None)
        return save

    def _save_and_leave(self, trainer: pl.Trainer) -> NoReturn:
        if save := self._saver(trainer):
            save(trainer)
        else:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt", weights_only=False)
        self._leave(trainer)

    def _leave(self, trainer: pl.Trainer) -> NoReturn:
        assert self._agreed is not None
        stop_launcher_monitor(trainer)
        wait(trainer)  # other ranks, which write nothing, must not end before everything is saved
        raise TrainingInterrupted(self._agreed)

    def _restore_handlers(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._handlers = {}
