"""End a command on a signal: with an exception of its own at any moment, and with all its ranks."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import lightning.pytorch as pl

from finetune.callbacks import TrainingInterrupted
from finetune.engine.launcher import end_ranks

SIGNALS = (signal.SIGTERM, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []))


@contextmanager
def raise_on_signal() -> Iterator[None]:
    """Raise `TrainingInterrupted` at once on a signal before or after the training, when everything is saved.

    During the training, `GracefulShutdown` handles signals. Lightning leaves SIGUSR1 alone when a handler is installed;
    otherwise it would requeue a SLURM job while the command still runs, even one that would start from scratch.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _raise) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) in (_raise, _ignore):  # otherwise other code has installed its handler
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def _raise(number: int, frame: FrameType | None) -> None:
    signal.signal(number, _ignore)
    raise TrainingInterrupted(signal.Signals(number))


def _ignore(number: int, frame: FrameType | None) -> None:
    """Ignore a repeated signal."""


@contextmanager
def shut_down_ranks_on_exit(trainer: pl.Trainer) -> Iterator[None]:
    """Let a signal end the trainer's work as it would end any other code, and all ranks with it.

    Lightning turns Ctrl-C into an exit with code 1, and ignores Ctrl-C from then on.

    Raises:
        KeyboardInterrupt: after Ctrl-C.
        TrainingInterrupted: after another signal.
    """
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as error:
        end_ranks(trainer)
        if isinstance(error, TrainingInterrupted) and error.signal == signal.SIGINT:
            raise KeyboardInterrupt(str(error)) from error
        if isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        raise
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)
