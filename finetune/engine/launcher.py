"""Ranks that Lightning starts: which ways of starting them work, and how they end."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.strategies import ParallelStrategy

from finetune.engine.lightning_private import calls_function_in_ranks, launched_processes, stop_launcher_monitor

CHECK_EVERY = 0.5  # seconds
GRACE = 3.0  # seconds until a rank is killed; it may wait for another one in a collective


def end_ranks(trainer: pl.Trainer) -> None:
    """End the ranks that this process has started, and return when they are gone; they would wait for it forever."""
    stop_launcher_monitor(trainer)
    processes = launched_processes(trainer)
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def report_killed_ranks(trainer: pl.Trainer, hints: Callable[[], Iterable[str]]) -> Iterator[None]:
    """End all ranks if one that this process has started is killed, with an error that says so.

    The others would wait for it in a collective, until Lightning kills them without a word.

    Args:
        trainer: of the training or evaluation.
        hints: further lines to show, such as how to resume.
    """
    if trainer.world_size == 1:
        yield
        return
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(CHECK_EVERY):
            for rank, process in enumerate(launched_processes(trainer), start=1):
                if (code := process.poll()) is not None and code < 0 and not is_over.is_set():
                    cause = " (SIGKILL; the system does that when memory runs out)" if code == -signal.SIGKILL else ""
                    lines = [f"error: rank {rank} was killed by signal {-code}{cause}", *hints()]
                    print("\n".join(lines), file=sys.stderr, flush=True)
                    for other in launched_processes(trainer):
                        other.kill()
                    os.kill(os.getpid(), signal.SIGKILL)  # the main thread may wait in a collective for ever

    thread = threading.Thread(target=watch, name="killed ranks", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def check_launcher(trainer: pl.Trainer) -> None:
    """Raise ValueError if ranks cannot be started in a way with which a training can be finished.

    Ranks that are forked or spawned from this process train copies of its objects, whose end this process never sees.
    """
    if calls_function_in_ranks(trainer):
        raise ValueError(
            f"{trainer.world_size} devices need a process each. Interactive Python and trainer.strategy=ddp_fork, "
            f"ddp_notebook or ddp_spawn cannot start them. Type the command in a shell, or in a notebook with ! before "
            f"it: finetune train ... trainer.devices={trainer.world_size}"
        )
    if trainer.world_size > 1 and torch.distributed.is_available() and torch.distributed.is_initialized():
        raise ValueError(
            "this process has run on several devices before, and cannot start further ranks again. Start each such "
            "training or evaluation with a command of its own: finetune train ..."
        )


def end_launched_rank(trainer: pl.Trainer) -> None:
    """End this process if Lightning started it as a further rank: what follows in a script is for rank 0 only.

    Ranks that torchrun or SLURM started go on, because there each process was asked for.
    """
    strategy = trainer.strategy
    environment = strategy.cluster_environment if isinstance(strategy, ParallelStrategy) else None
    if trainer.global_rank and isinstance(environment, LightningEnvironment):
        sys.exit(0)
