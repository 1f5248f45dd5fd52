"""How a command ends that is told to: by an exception of its own, whatever it does just now, and with all its ranks."""

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
    """Raise `TrainingInterrupted` at once when a signal comes before or after the training: everything is saved then.

    In the training it is `Interruption` that listens. Lightning leaves SIGUSR1 alone where somebody listens to it; else
    it would give a job of SLURM back while the command goes on, even one that would begin anew.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _leave) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) in (_leave, _is_leaving):  # else somebody wants it otherwise to the end
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def _leave(number: int, frame: FrameType | None) -> None:
    signal.signal(number, _is_leaving)
    raise TrainingInterrupted(signal.Signals(number))


def _is_leaving(number: int, frame: FrameType | None) -> None:
    """Told once already."""


@contextmanager
def shut_down_ranks_on_exit(trainer: pl.Trainer) -> Iterator[None]:
    """Let a signal end what a trainer does as it would end anything else, and all ranks with it.

    Lightning makes of Ctrl-C an exit with 1, and ignores it from then on.

    Raises:
        KeyboardInterrupt: after Ctrl-C.
        Interrupted: after another signal.
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
