"""Commands in processes of their own, forked from a server that has imported torch once: a second each, not six."""

import multiprocessing
import os
import signal
import sys
import tempfile
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.samples import COMMAND, clean_environment

PRELOADED = ("finetune.cli", "finetune.commands.train", "finetune.commands.plan", "tests.samples")


@dataclass
class Command:
    """A `finetune` command that runs.

    Attributes:
        process: its process; -N is the exit code after signal N.
        stdout: file of its standard output.
        stderr: file of its standard error.
    """

    process: BaseProcess
    stdout: Path
    stderr: Path

    def wait(self, timeout: float = 120) -> tuple[int, str]:
        """Return the exit code and the text of standard error."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            raise TimeoutError(f"still running after {timeout} s: {self.stderr.read_text()}")
        return self.process.exitcode, self.stderr.read_text()


def start(*arguments: str, cwd: Path, logs: Path, **environment: str) -> Command:
    """Start `finetune ARGUMENTS` as the leader of a new session.

    Args:
        arguments: of the command line.
        cwd: its working folder.
        logs: folder for its `stdout` and `stderr`, which are appended to.
        environment: variables in addition to those of `clean_environment`.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    outputs = logs / "stdout", logs / "stderr"
    process = context.Process(target=_run, args=(arguments, cwd, outputs, clean_environment(**environment)))
    process.start()
    return Command(process, *outputs)


def _run(arguments: tuple[str, ...], cwd: Path, outputs: tuple[Path, Path], environment: dict[str, str]) -> None:
    import torch

    from finetune.cli import main

    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    for stream, path in zip((1, 2), outputs, strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    # a shell that runs the tests in the background makes its child processes ignore Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)
    tempfile.tempdir = None  # the server may have looked at its own environment
    torch.set_num_threads(1)
    sys.argv = [COMMAND, *arguments]
    main()
