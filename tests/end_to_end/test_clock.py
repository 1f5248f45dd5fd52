"""Trainings while the clock of the machine is set forth and back by days."""

import csv
import os
import time
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

import finetune
from finetune.callbacks import Checkpoint
from tests.runs.test_resume import GO_ON, WORDS, rows, same_weights, stopped

DAY = 24 * 60 * 60
BY_THE_CLOCK = ("checkpoint.every_n_steps=null", "checkpoint.every_n_minutes=60")


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps behind which a checkpoint is saved."""
    steps: list[int] = []
    save = Checkpoint.save

    def noted(self: Checkpoint, trainer: Any, as_last: bool = True) -> None:
        steps.append(trainer.global_step)
        save(self, trainer, as_last)

    monkeypatch.setattr(Checkpoint, "save", noted)
    return steps


def test_nothing_is_measured_by_a_clock_that_can_be_set(
    tmp_path: Path, saved: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, jumps = time.time, cycle([0, 3 * DAY, -5 * DAY, 400 * DAY])
    with monkeypatch.context() as set_often:
        set_often.setattr(time, "time", lambda: clock() + next(jumps))
        run = stopped(tmp_path / "run", *BY_THE_CLOCK, batch=5)
        assert saved == [2, 4]  # behind each epoch, as no hour has passed
        for path in (run / "checkpoints").iterdir():
            os.utime(path, (clock() + DAY, clock() + DAY))  # the clock has been set back since
        assert finetune.train(*WORDS, *BY_THE_CLOCK, GO_ON, f"output={run}", "resume=auto").folder == run
    assert saved == [2, 4, 6]
    with (run / "metrics.csv").open(newline="") as file:
        assert all(0 < float(row["seconds"]) < 600 for row in csv.DictReader(file))
    whole = finetune.train(*WORDS, f"output={tmp_path / 'whole'}")
    assert rows(run) == rows(whole.folder)
    assert same_weights(run, whole.folder)


def test_a_short_while_passes_by_a_clock_that_stands_still(
    tmp_path: Path, saved: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: 0.0)
    finetune.train(*WORDS, "checkpoint.every_n_steps=null", "checkpoint.every_n_minutes=1e-9", f"output={tmp_path}/run")
    assert saved == [1, 2, 3, 4, 5, 6]
