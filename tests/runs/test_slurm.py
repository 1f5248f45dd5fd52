"""A SLURM job that gets SIGUSR1 before its time limit; `scontrol` is a script that records its arguments."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune.callbacks import TrainingInterrupted
from finetune.runs.signals import raise_on_signal
from finetune.runs.slurm import requeue

INTERRUPTED = TrainingInterrupted(signal.SIGUSR1)


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """Restore the signal handlers after each test."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file in which the script records its arguments."""
    script = tmp_path / "scontrol"
    script.write_text(f'#!/bin/sh\necho "$@" > {tmp_path / "requests"}\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("SLURM_JOB_ID", "123")
    return tmp_path / "requests"


def test_a_job_requeues_itself_on_sigusr1(requests: Path) -> None:
    assert requeue(INTERRUPTED, True) == ["job 123 is requeued"]
    assert requests.read_text() == "requeue 123\n"


def test_the_last_lines_are_logged_even_if_slurm_ends_the_job_at_once(requests: Path) -> None:
    script = requests.with_name("scontrol")
    script.write_text(f"{script.read_text()}kill -TERM $PPID\n")
    assert requeue(INTERRUPTED, True) == ["job 123 is requeued"]


def test_a_signal_before_or_after_the_training_requeues_too(requests: Path) -> None:
    with raise_on_signal():
        with pytest.raises(TrainingInterrupted) as caught:
            os.kill(os.getpid(), signal.SIGUSR1)
        assert requeue(caught.value, True) == ["job 123 is requeued"]
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN  # until the last lines are logged


def test_a_job_of_an_array_is_requeued_by_its_array_number(requests: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    requeue(INTERRUPTED, True)
    assert requests.read_text() == "requeue 7_2\n"


def test_a_job_without_resume_auto_is_not_requeued(requests: Path) -> None:
    assert "no resume=auto" in requeue(INTERRUPTED, False)[0]
    assert not requests.exists()


@pytest.mark.parametrize("error", [TrainingInterrupted(signal.SIGTERM), KeyboardInterrupt(), RuntimeError("broke")])
def test_other_errors_do_not_requeue(requests: Path, error: BaseException) -> None:
    assert requeue(error, True) == []
    assert not requests.exists()


def test_outside_of_slurm_nothing_is_requeued(requests: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID")
    assert requeue(INTERRUPTED, True) == []


def test_a_missing_scontrol_and_an_invalid_job_number_are_reported(
    requests: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "1; rm x")
    assert "is not a job number" in requeue(INTERRUPTED, True)[0]
    monkeypatch.setenv("SLURM_JOB_ID", "123")
    monkeypatch.setenv("PATH", "/nowhere")
    assert "could not be requeued" in requeue(INTERRUPTED, True)[0]
