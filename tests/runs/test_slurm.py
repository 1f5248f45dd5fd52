"""A job of SLURM that is warned of its end; `scontrol` is a script that notes what it was asked."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune.callbacks import TrainingInterrupted
from finetune.runs.signals import raise_on_signal
from finetune.runs.slurm import requeue

WARNED = TrainingInterrupted(signal.SIGUSR1)


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """What a process that goes on needs again."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the script notes its arguments."""
    script = tmp_path / "scontrol"
    script.write_text(f'#!/bin/sh\necho "$@" > {tmp_path / "asked"}\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("SLURM_JOB_ID", "123")
    monkeypatch.setattr(sys, "argv", ["finetune", "train", "resume=auto"])
    return tmp_path / "asked"


def test_a_warned_job_goes_back_into_the_queue(asked: Path) -> None:
    assert requeue(WARNED) == ["job 123 is requeued"]
    assert asked.read_text() == "requeue 123\n"


def test_the_last_words_are_said_though_the_queue_ends_the_job_at_once(asked: Path) -> None:
    script = asked.with_name("scontrol")
    script.write_text(f"{script.read_text()}kill -TERM $PPID\n")
    assert requeue(WARNED) == ["job 123 is requeued"]


def test_the_queue_is_asked_by_whoever_was_warned_outside_of_the_training_too(asked: Path) -> None:
    with raise_on_signal():
        with pytest.raises(TrainingInterrupted) as caught:
            os.kill(os.getpid(), signal.SIGUSR1)
        assert requeue(caught.value) == ["job 123 is requeued"]
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN  # until the last words are said


def test_a_job_of_an_array_is_named_as_such(asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    requeue(WARNED)
    assert asked.read_text() == "requeue 7_2\n"


def test_what_would_begin_anew_is_not_started_again(asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["finetune", "train"])
    assert "no resume=auto" in requeue(WARNED)[0]
    assert not asked.exists()


@pytest.mark.parametrize("error", [TrainingInterrupted(signal.SIGTERM), KeyboardInterrupt(), RuntimeError("broke")])
def test_other_ends_leave_the_queue_alone(asked: Path, error: BaseException) -> None:
    assert requeue(error) == []
    assert not asked.exists()


def test_outside_of_slurm_nothing_is_asked(asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID")
    assert requeue(WARNED) == []


def test_a_missing_command_and_a_strange_number_are_said(asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "1; rm x")
    assert "no number of a job" in requeue(WARNED)[0]
    monkeypatch.setenv("SLURM_JOB_ID", "123")
    monkeypatch.setenv("PATH", "/nowhere")
    assert "could not be requeued" in requeue(WARNED)[0]
