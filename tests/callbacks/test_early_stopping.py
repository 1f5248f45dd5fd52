"""Early stopping with given scores."""

import logging
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from finetune.callbacks import ApplyTuningPlan, EarlyStopping, IoU
from finetune.runs.console import configure_logging
from finetune.tuning.plan import Plan, PlateauCriterion, Rule
from tests.tasks.tiny_run import tiny_data, tiny_task, tiny_trainer


class Scored(pl.LightningModule):
    """Trains nothing and logs a given score after each epoch."""

    def __init__(self, scores: Sequence[float]) -> None:
        super().__init__()
        self.scores = scores
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.weight * 0

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        for name in ("val/iou", "val/loss"):
            self.log(name, self.scores[self.current_epoch])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def epochs(scores: Sequence[float], **options: Any) -> int:
    """Return the number of epochs after which a training with these scores ends."""
    loader = torch.utils.data.DataLoader(range(2), batch_size=2)
    trainer = tiny_trainer(EarlyStopping(**options), max_epochs=len(scores))
    trainer.fit(Scored(scores), loader, loader)
    return trainer.current_epoch


def test_a_second_training_starts_anew() -> None:
    loader, stopping = torch.utils.data.DataLoader(range(2), batch_size=2), EarlyStopping(patience=1)
    for _ in range(2):
        trainer = tiny_trainer(stopping, max_epochs=4)
        trainer.fit(Scored([0.3, 0.2, 0.1, 0.1]), loader, loader)
        assert trainer.current_epoch == 2


@pytest.mark.parametrize(
    ("scores", "options", "expected"),
    [
        ([0.1, 0.2, 0.3, 0.4, 0.5], {"patience": 1}, 5),  # never stops while it improves
        ([0.3, 0.2, 0.1, 0.9, 0.9], {"patience": 1}, 2),
        ([0.3, 0.2, 0.1, 0.9, 0.9], {"patience": 2}, 3),
        ([0.3, 0.2, 0.1, 0.9, 0.9], {"patience": 3}, 5),  # improves in the third
        ([0.3, 0.3, 0.3, 0.3, 0.3], {"patience": 2}, 3),  # equal is no improvement
        ([0.30, 0.32, 0.34, 0.36], {"patience": 2, "min_delta": 0.1}, 3),
        ([0.30, 0.32, 0.34, 0.36], {"patience": 2, "min_delta": 0.01}, 4),
        ([0.3, 0.2, 0.1, 0.05], {"patience": 1, "monitor": "val/loss"}, 4),
        ([0.1, 0.2, 0.3, 0.4], {"patience": 2, "monitor": "val/loss"}, 3),
    ],
)
def test_it_stops_after_as_many_epochs_without_improvement_as_its_patience(
    scores: list[float], options: dict[str, Any], expected: int
) -> None:
    assert epochs(scores, **options) == expected


@pytest.mark.parametrize(
    ("trains", "expected"),
    [
        ([[0, None]], 2),
        ([[3, None]], 4),  # the plan is done in the fourth epoch, which does not improve
        ([[0, 2], [4, None]], 5),
        (False, 2),
    ],
)
def test_it_waits_while_the_plan_has_layers_to_unfreeze(trains: Any, expected: int) -> None:
    never_better = EarlyStopping(patience=1, min_delta=1)
    trainer = tiny_trainer(IoU(), never_better, ApplyTuningPlan(), max_epochs=7)
    trainer.fit(tiny_task(plan=Plan((Rule("backbone", train=trains), Rule(".")))), tiny_data())
    assert trainer.current_epoch == expected


def test_it_waits_for_a_plateau_that_the_plan_waits_for() -> None:
    never_better, plateau = EarlyStopping(patience=1, min_delta=1), PlateauCriterion(patience=2, min_delta=1)
    trainer = tiny_trainer(IoU(), never_better, ApplyTuningPlan(), max_epochs=7)
    plan = Plan((Rule("backbone", train=[["plateau", None]]), Rule(".")), plateau=plateau)
    trainer.fit(tiny_task(plan=plan), tiny_data())
    assert trainer.current_epoch == 4  # the best, two without improvement, and the first with the backbone


def test_a_nan_score_stops_the_training_even_while_the_plan_is_pending() -> None:
    callback = EarlyStopping(patience=5)
    callback._plan_is_pending = True
    assert callback._evaluate_stopping_criteria(torch.tensor(float("nan")))[0]
    assert callback.wait_count == 0


def test_it_logs_after_which_epoch_and_why_it_stopped(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert epochs([0.3, 0.2, 0.1, 0.9], patience=2) == 3
    (message,) = [record.getMessage() for record in caplog.records if "stopped early" in record.getMessage()]
    assert message.startswith("stopped early after epoch 3: ")
    assert "val/iou did not improve in the last 2" in message
    assert "0.300" in message
    assert "Signaling" not in message


def test_the_reason_is_printed_by_a_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    loggers = [logging.getLogger(name) for name in ("finetune", "lightning.pytorch", "lightning.fabric")]
    before = [(each.level, each.propagate, list(each.handlers)) for each in loggers]
    try:
        configure_logging()  # every command calls it first
        epochs([0.3, 0.2, 0.1, 0.9], patience=2)
    finally:
        for each, (level, propagate, handlers) in zip(loggers, before, strict=True):
            each.setLevel(level)
            each.propagate, each.handlers = propagate, handlers
    assert "stopped early after epoch 3" in capsys.readouterr().out


def test_it_logs_nothing_if_it_did_not_stop(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert epochs([0.1, 0.2, 0.3], patience=1) == 3
    assert "stopped early" not in caplog.text


def test_a_nan_score_stops_the_training_and_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert epochs([0.1, float("nan"), 0.3, 0.4], patience=3) == 2
    assert "not finite" in caplog.text


@pytest.mark.parametrize(("broken_images", "expected"), [(0, 3), (2, 1)])
def test_a_score_of_zero_over_zero_is_no_improvement_but_no_end(
    broken_images: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = tiny_task()
    summed = task.sum_counts

    def sum_counts() -> dict[str, torch.Tensor]:
        counts = summed()
        task.non_finite_images = broken_images
        return counts

    monkeypatch.setattr(task, "sum_counts", sum_counts)
    monkeypatch.setattr(task.evaluator, "compute", lambda counts: {"iou": float("nan")})
    trainer = tiny_trainer(ApplyTuningPlan(), IoU(), EarlyStopping(patience=3), max_epochs=5)
    trainer.fit(task, datamodule=tiny_data())
    assert trainer.current_epoch == expected


@pytest.mark.parametrize(("monitor", "near"), [("val/iuo", "val/iou"), ("val/los", "val/loss"), ("iou", "val/iou")])
def test_a_monitor_that_is_not_logged_is_rejected_with_the_nearest_name(monitor: str, near: str) -> None:
    trainer = tiny_trainer(ApplyTuningPlan(), IoU(), EarlyStopping(monitor, mode="max"), max_epochs=2)
    with pytest.raises(ValueError, match=rf"monitors .{monitor}., which is not logged.*Did you mean .*{near}"):
        trainer.fit(tiny_task(), datamodule=tiny_data())
    assert trainer.current_epoch == 0


def test_a_monitor_without_a_near_name_is_rejected_with_all_logged_names() -> None:
    with pytest.raises(
        ValueError, match=r"is not logged\. Choose from: val/iou, val/loss\. Set callbacks.early_stopping.monitor"
    ):
        epochs([0.1, 0.2], monitor="qqq", mode="max")
