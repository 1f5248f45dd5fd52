"""Ranks that this process has started, when it is told to end."""

import subprocess

import lightning.pytorch as pl
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

GRACE = 3.0  # seconds, after which a rank that waits for another in a collective is ended by force


def stop_launcher_monitor(trainer: pl.Trainer) -> None:
    """Let ranks end, one before the other: Lightning's observer would kill this process when one has.

    It looks at the launcher's list every few seconds, and is through when nothing is left in it.
    """
    launcher = trainer.strategy.launcher
    if isinstance(launcher, _SubprocessScriptLauncher):
        watched, launcher.procs = launcher.procs, list(launcher.procs)
        watched.clear()


def end_ranks(trainer: pl.Trainer) -> None:
    """Return when the ranks that this process has started are gone; they would wait for it for ever."""
    stop_launcher_monitor(trainer)
    launcher = trainer.strategy.launcher
    started = launcher.procs if isinstance(launcher, _SubprocessScriptLauncher) else []
    for process in started:
        process.terminate()
    for process in started:
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
