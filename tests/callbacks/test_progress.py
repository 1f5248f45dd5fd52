"""The progress of a training on a terminal and in the log."""

import logging
import re
import sys
from io import StringIO
from typing import Any

import lightning.pytorch as pl
import pytest

from finetune.callbacks import ApplyTuningPlan, Progress
from tests.tasks.tiny_run import tiny_data, tiny_task, tiny_trainer

LINE = re.compile(
    r"epoch (\d)/3  loss (\d+\.\d{4})  val loss (\d+\.\d{4})  val iou (\d\.\d{4})  best (\d\.\d{4})  "
    r"\d+\.\d images/s  \d+ s  \d+:\d\d left"
)


class Terminal(StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


class Scores(pl.Callback):
    """Logs a given IoU after each epoch."""

    def __init__(self, *scores: float) -> None:
        self.scores = scores

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.log("val/iou", self.scores[trainer.current_epoch])


def fit(progress: Progress, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    scores = Scores(0.25, 0.5, 0.375)
    trainer = tiny_trainer(
        ApplyTuningPlan(), scores, *callbacks, progress, max_epochs=3, enable_progress_bar=True, **options
    )
    trainer.fit(tiny_task(), datamodule=tiny_data())
    return trainer


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "finetune.callbacks.progress"]


def test_without_a_terminal_each_epoch_is_one_line(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    bars: list[object] = []

    class Notes(pl.Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            bars.append(progress._bar)

    progress = Progress()
    fit(progress, Notes())
    found = [LINE.fullmatch(line) for line in lines(caplog)]
    assert all(found), lines(caplog)
    assert [match[1] for match in found] == ["1", "2", "3"]
    assert [float(match[4]) for match in found] == [0.25, 0.5, 0.375]
    assert [float(match[5]) for match in found] == [0.25, 0.5, 0.5]
    assert bars == [None] * 6
    assert "\x1b" not in capsys.readouterr().err


def test_the_best_score_is_that_of_all_validations_of_an_epoch(caplog: pytest.LogCaptureFixture) -> None:
    class Falling(pl.Callback):
        scores = iter((0.5, 0.25, 0.375, 0.125))

        def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            pl_module.log("val/iou", next(self.scores))

    caplog.set_level(logging.INFO)
    trainer = tiny_trainer(
        ApplyTuningPlan(), Falling(), Progress(), max_epochs=2, enable_progress_bar=True, val_check_interval=1
    )
    trainer.fit(tiny_task(), datamodule=tiny_data())
    assert ["best 0.5000" in line for line in lines(caplog)] == [True, True]


def test_a_second_training_has_a_best_score_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    progress = Progress()
    fit(progress)
    caplog.set_level(logging.INFO)
    fit(progress)
    assert "best 0.2500" in lines(caplog)[0]


def test_the_last_line_has_no_time_left(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    fit(Progress())
    assert lines(caplog)[-1].endswith(" 0:00 left")
    assert not lines(caplog)[0].endswith(" s")


def test_on_a_terminal_a_bar_is_shown_and_closed(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    progress = Progress(refresh=0)
    fit(progress)
    assert "epoch 1/3" in screen.getvalue()
    assert "images/s" in screen.getvalue()
    assert len(lines(caplog)) == 3
    assert progress._bar is None


def test_the_loss_on_the_bar_is_that_of_a_batch_however_many_make_a_step(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    shown: list[str] = []
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(
        "finetune.callbacks.progress.RichProgress.update", lambda *_, **fields: shown.append(fields["status"])
    )
    options = {"accumulate_grad_batches": 2, "limit_val_batches": 0, "enable_progress_bar": True}
    tiny_trainer(ApplyTuningPlan(), Progress(refresh=0), **options).fit(tiny_task(), datamodule=tiny_data(train=12))
    losses = [float(status.split()[1]) for status in shown]
    logged = float(lines(caplog)[0].split("loss ")[1].split()[0])
    assert len(losses) == 3  # the last makes a step alone
    assert sum(losses) / 3 == pytest.approx(logged, abs=1e-3)


def test_the_bar_is_closed_when_the_training_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())

    class Breaks(pl.Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            raise RuntimeError("no more")

    progress = Progress(refresh=0)
    with pytest.raises(RuntimeError, match="no more"):
        fit(progress, Breaks())
    assert progress._bar is None


def test_other_ranks_show_and_log_nothing(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level(logging.INFO)
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(Progress, "enable", lambda self: None)
    progress = Progress()
    progress.disable()
    fit(progress)
    assert lines(caplog) == []
    assert "epoch" not in screen.getvalue()


def test_without_a_validation_there_is_still_a_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    fit(Progress(), limit_val_batches=0)
    assert len(lines(caplog)) == 3
    assert re.match(r"epoch 1/3  loss \d", lines(caplog)[0])
    assert "nan" not in lines(caplog)[0]


def test_the_best_is_that_of_the_monitored_score(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    trainer = fit(Progress(monitor="val/loss"))
    shown = [re.search(r"val loss (\S+)  val iou \S+  best val/loss (\S+)", line) for line in lines(caplog)]
    losses, best = zip(*((float(match[1]), float(match[2])) for match in shown), strict=True)
    assert list(best) == [min(losses[: n + 1]) for n in range(3)]
    assert trainer.current_epoch == 3


def test_an_epoch_without_a_validation_shows_no_scores_of_an_earlier_one(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    fit(Progress(), check_val_every_n_epoch=2)
    first, second, third = lines(caplog)
    assert "val" not in first + third
    assert "val iou 0.5000  best 0.5000" in second
    assert "best 0.5000" in third
