"""Ranks that this process has started and that do not end by themselves."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver

import finetune
from finetune.config.errors import ConfigError
from finetune.engine import launcher
from finetune.engine.launcher import end_ranks, stop_launcher_monitor
from tests.samples import SYNTHETIC
from tests.tasks.tiny_run import tiny_trainer

IGNORING = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(100)"


def test_ranks_that_ignore_sigterm_are_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "GRACE", 0.2)
    trainer = tiny_trainer(devices=2, strategy="ddp")
    scripts = (IGNORING, "import time; print(flush=True); time.sleep(100)")
    processes = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) for script in scripts]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()  # it ignores SIGTERM from here on
    trainer.strategy.launcher.procs = list(processes)
    begun = time.monotonic()
    end_ranks(trainer)
    assert [process.returncode for process in processes] == [-9, -15]
    assert time.monotonic() - begun < 20
    end_ranks(trainer)  # does nothing the second time


def test_the_monitor_of_lightning_no_longer_kills_all_when_one_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, killed = tiny_trainer(devices=2, strategy="ddp"), []
    failed = subprocess.Popen([sys.executable, "-c", "raise SystemExit(143)"])
    failed.wait()
    trainer.strategy.launcher.procs = [failed]
    observer = _ChildProcessObserver(1, trainer.strategy.launcher.procs)
    monkeypatch.setattr(observer, "_terminate_all", lambda: killed.append(1))
    stop_launcher_monitor(trainer)
    assert observer._run()  # it has ended
    assert killed == []
    assert trainer.strategy.launcher.procs == [failed]


def test_a_single_process_has_nothing_to_end() -> None:
    end_ranks(tiny_trainer())


KILLED_RANK = """
import subprocess, sys, time
from finetune.engine.launcher import report_killed_ranks
from tests.samples import SYNTHETIC
from tests.tasks.tiny_run import tiny_trainer
trainer = tiny_trainer(devices=2, strategy="ddp")
trainer.strategy.launcher.procs = [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])]
with report_killed_ranks(trainer, lambda: ["resume: finetune train resume=x"]):
    trainer.strategy.launcher.procs[0].send_signal(int(sys.argv[1]))
    time.sleep(20)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "cause"),
    [
        (9, " (SIGKILL; the system does that when memory runs out)"),
        pytest.param(15, "", marks=pytest.mark.slow),
    ],
)
def test_a_killed_rank_is_named_with_the_way_to_resume_and_all_end(number: int, cause: str) -> None:
    command = [sys.executable, "-c", KILLED_RANK, str(number)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stderr.splitlines()[-2:] == [
        f"error: rank 1 was killed by signal {number}{cause}",
        "resume: finetune train resume=x",
    ]
    assert done.returncode == -9


@pytest.mark.parametrize("strategy", ["ddp_fork", "ddp_spawn", "ddp_notebook"])
def test_ranks_that_call_a_function_are_refused_with_the_command(strategy: str, folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"2 devices need a process each.*finetune train \.\.\. trainer.devices=2"):
        finetune.train(*SYNTHETIC, "trainer.devices=2", f"trainer.strategy={strategy}", "output=run")
    assert not (folder / "run").exists()
