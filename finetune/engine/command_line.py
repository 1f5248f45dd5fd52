"""The command line of this process, which Lightning runs again to start each further rank.

Lightning's launcher takes it from `sys.argv`, so that is where it is kept; this is the one place that writes it.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_command: str | None = None  # None while no `finetune` command runs in this process
_started = 0.0  # value of `time.monotonic` when it began, before torch was imported


@contextmanager
def command_line(command: str, overrides: Sequence[str]) -> Iterator[None]:
    """Make `finetune COMMAND OVERRIDES` the command line of this process."""
    global _command, _started
    before = sys.argv, _command
    sys.argv, _command, _started = [sys.argv[0], command, *overrides], command, time.monotonic()
    try:
        yield
    finally:
        sys.argv, _command = before


def command_started() -> float:
    """Return the value of `time.monotonic` at the start of the `finetune` command; that of now in Python."""
    return time.monotonic() if _command is None else _started


@contextmanager
def hydra_command_line(overrides: Sequence[str]) -> Iterator[None]:
    """Leave only the overrides on the command line, which is what Hydra parses."""
    before = sys.argv
    sys.argv = [sys.argv[0], *overrides]
    try:
        yield
    finally:
        sys.argv = before


def add_for_other_ranks(*overrides: str) -> None:
    """Append overrides with which further ranks are to start; does nothing outside of a `finetune` command.

    In a notebook or script Lightning starts ranks by its own means, and they share the config.
    """
    if _command is not None:
        sys.argv += overrides
