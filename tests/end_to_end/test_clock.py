"""Trainings during which the system clock is set forward and back by days."""

import csv
import os
import time
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

import finetune
from finetune.callbacks import Checkpoint
from tests.runs.interrupted import OVERRIDES, WITHOUT_STOP, interrupt, rows, same_weights

pytestmark = pytest.mark.usefixtures("without_figures")

DAY = 24 * 60 * 60
BY_TIME = ("checkpoint.every_n_steps=null", "checkpoint.every_n_minutes=60")


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the steps after which a checkpoint is saved."""
    steps: list[int] = []
    save = Checkpoint.save

    def save_and_note(self: Checkpoint, trainer: Any, as_last: bool = True) -> None:
        steps.append(trainer.global_step)
        save(self, trainer, as_last)

    monkeypatch.setattr(Checkpoint, "save", save_and_note)
    return steps


@pytest.mark.slow
def test_setting_the_clock_affects_nothing(tmp_path: Path, saved: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    clock, jumps = time.time, cycle([0, 3 * DAY, -5 * DAY, 400 * DAY])
    with monkeypatch.context() as patched:
        patched.setattr(time, "time", lambda: clock() + next(jumps))
        run = interrupt(tmp_path / "run", *BY_TIME, batch=5)
        assert saved == [2, 4]  # after each epoch, as no hour has passed
        for path in (run / "checkpoints").iterdir():
            os.utime(path, (clock() + DAY, clock() + DAY))  # the clock has been set back since
        assert finetune.train(*OVERRIDES, *BY_TIME, WITHOUT_STOP, f"output={run}", "resume=auto").folder == run
    assert saved == [2, 4, 6]
    with (run / "metrics.csv").open(newline="") as file:
        assert all(0 < float(row["seconds"]) < 600 for row in csv.DictReader(file))
    uninterrupted = finetune.train(*OVERRIDES, f"output={tmp_path / 'uninterrupted'}")
    assert rows(run) == rows(uninterrupted.folder)
    assert same_weights(run, uninterrupted.folder)


def test_time_is_measured_even_if_the_clock_stands_still(
    tmp_path: Path, saved: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: 0.0)
    finetune.train(
        *OVERRIDES, "checkpoint.every_n_steps=null", "checkpoint.every_n_minutes=1e-9", f"output={tmp_path}/run"
    )
    assert saved == [1, 2, 3, 4, 5, 6]
