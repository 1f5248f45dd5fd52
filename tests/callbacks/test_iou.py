"""Logged scores against a loop over predictions."""

from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from finetune.callbacks import ApplyTuningPlan, Checkpoint, IoU
from finetune.data import CLASS_NAMES
from tests.tasks.tiny_run import Sizes, tiny_data, tiny_task, tiny_trainer

NAMES = {"iou", "dice", "precision", "recall", "f1", "pixel_accuracy", "frequency_weighted_iou", "kappa"}


def prepared() -> pl.LightningModule:
    """Return a task that has learned a little, so that its predictions have more than one class."""
    task = tiny_task(lr=1e-2, schedule_name="constant", warmup=0)
    tiny_trainer(ApplyTuningPlan(), max_epochs=12, limit_val_batches=0).fit(task, datamodule=tiny_data(batch_size=8))
    return task


def by_hand(task: pl.LightningModule) -> dict[str, float]:
    """Return the scores from sets of pixels, image by image, without a confusion matrix."""
    found = {name: {"both": 0, "true": 0, "predicted": 0} for name in CLASS_NAMES}
    right = total = 0
    task.model.eval()
    for index in range(7):
        sample = Sizes(7, split="val")[index]
        with torch.no_grad():
            predicted = task.model(task.model.normalize(sample["image"][None]))[0].argmax(0).numpy()
        true = sample["mask"].numpy()
        right, total = right + int((predicted == true).sum()), total + true.size
        for label, counts in enumerate(found.values()):
            counts["both"] += int(((predicted == label) & (true == label)).sum())
            counts["true"] += int((true == label).sum())
            counts["predicted"] += int((predicted == label).sum())

    def mean(values: list[float]) -> float:
        return float(np.nanmean(values))

    each = {name: ratio(c["both"], c["true"] + c["predicted"] - c["both"]) for name, c in found.items()}
    chance = sum(c["true"] * c["predicted"] for c in found.values()) / total**2
    dice = mean([ratio(2 * c["both"], c["true"] + c["predicted"]) for c in found.values()])
    return {
        "iou": mean(list(each.values())),
        "dice": dice,
        "f1": dice,
        "precision": mean([ratio(c["both"], c["predicted"]) for c in found.values()]),
        "recall": mean([ratio(c["both"], c["true"]) for c in found.values()]),
        "pixel_accuracy": right / total,
        "frequency_weighted_iou": sum(c["true"] / total * each[name] for name, c in found.items() if c["true"]),
        "kappa": (right / total - chance) / (1 - chance),
        **{f"iou/{name}": value for name, value in each.items()},
    }


def ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def test_every_logged_score_is_the_one_counted_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    task, iou = prepared(), IoU()
    logged = tiny_trainer(iou).validate(task, datamodule=tiny_data(), verbose=False)[0]
    expected = by_hand(task)
    assert set(expected) == NAMES | {f"iou/{name}" for name in CLASS_NAMES}
    assert set(logged) == {f"val/{name}" for name in expected} | {"val/loss"}
    assert 0.0 < expected["iou"] < 1.0
    assert sum(value > 0 for name, value in expected.items() if name.startswith("iou/")) >= 2
    for name, value in expected.items():
        assert logged[f"val/{name}"] == pytest.approx(value, abs=1e-6, nan_ok=True), name

    lines = capsys.readouterr().out.splitlines()
    shown = {line.split()[0]: line.split() for line in lines if line and line.split()[0] in (*CLASS_NAMES, "mean")}
    assert set(shown) == {*CLASS_NAMES, "mean"}
    assert float(shown["mean"][2]) == pytest.approx(expected["iou"], abs=1e-4)


def test_a_test_logs_the_same_names_under_test() -> None:
    data = tiny_data()
    data.test = data.val
    logged = tiny_trainer(IoU(table=False)).test(tiny_task(), datamodule=data, verbose=False)[0]
    assert set(logged) == {f"test/{name}" for name in (*NAMES, "loss", *(f"iou/{name}" for name in CLASS_NAMES))}


def test_a_second_validation_does_not_count_the_first_again() -> None:
    task, trainer = tiny_task(), tiny_trainer(IoU(table=False))
    first = trainer.validate(task, datamodule=tiny_data(), verbose=False)[0], task.total_counts["confusion"]
    second = trainer.validate(task, datamodule=tiny_data(), verbose=False)[0], task.total_counts["confusion"]
    np.testing.assert_equal(second[0], first[0])
    assert torch.equal(second[1], first[1])
    assert first[1].dtype == torch.int64


def test_the_scores_of_an_epoch_are_there_for_those_who_monitor_them() -> None:
    trainer = tiny_trainer(ApplyTuningPlan(), IoU())
    trainer.fit(tiny_task(), datamodule=tiny_data())
    assert {"val/iou", "val/iou/disc", "val/loss", "train/loss"} <= set(trainer.callback_metrics)


class Diverge(pl.Callback):
    """Make one weight of the head NaN for the validations from an epoch on."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch >= self.epoch:
            next(pl_module.model.head.parameters()).data.view(-1)[0] = torch.nan


@pytest.mark.parametrize("monitor", ["val/iou", "val/loss"])
def test_an_epoch_whose_outputs_are_nan_is_named_and_never_the_best(
    monitor: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saver = Checkpoint(monitor)
    options = {"max_epochs": 2, "enable_checkpointing": True, "default_root_dir": tmp_path}
    trainer = tiny_trainer(ApplyTuningPlan(), IoU(), Diverge(epoch=1), saver, **options)
    trainer.fit(tiny_task(), datamodule=tiny_data())
    assert [entry["epoch"] for entry in saver.best] == [1]
    assert "the model's outputs are NaN or infinite for 7 val images; scores are NaN" in caplog.text
    assert np.isnan(float(trainer.callback_metrics["val/iou"]))
    assert np.isnan(float(trainer.callback_metrics["val/loss"]))


def test_no_table_is_printed_during_a_training(capsys: pytest.CaptureFixture[str]) -> None:
    tiny_trainer(ApplyTuningPlan(), IoU()).fit(tiny_task(), datamodule=tiny_data())
    assert "pixel accuracy" not in capsys.readouterr().out


@pytest.mark.parametrize(("table", "expected"), [(True, True), (False, False)])
def test_the_table_is_printed_if_wanted(table: bool, expected: bool, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_trainer(IoU(table=table)).validate(tiny_task(), datamodule=tiny_data(), verbose=False)
    assert ("pixel accuracy" in capsys.readouterr().out) is expected


def test_a_module_that_counts_nothing_is_refused() -> None:
    with pytest.raises(TypeError, match=r"IoU needs a TuningTask, but the Trainer got a LightningModule"):
        IoU().on_validation_epoch_end(tiny_trainer(), pl.LightningModule())
