"""The end of ranks that this process has started."""

import subprocess

import lightning.pytorch as pl

from finetune.engine.lightning_private import launched_processes, stop_launcher_monitor

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
