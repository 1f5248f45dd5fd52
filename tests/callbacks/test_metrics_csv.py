"""The rows of `metrics.csv` against what the trainer logged."""

import csv
import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from finetune.callbacks import ApplyTuningPlan, IoU, MetricsCSV
from finetune.callbacks.metrics_csv import FIRST, MEASURED, write_rows
from finetune.data import CLASS_NAMES
from finetune.profiling import memory
from tests.tasks.tiny_run import tiny_data, tiny_task, tiny_trainer


class Notes(pl.Callback):
    """What an epoch logged, for comparison; stands after the callbacks it looks at."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        row = {name: float(value) for name, value in trainer.callback_metrics.items()}
        lr = max(group["lr"] for group in trainer.optimizers[0].param_groups)
        self.rows.append({**row, "train/loss": float(pl_module.train_loss), "lr": lr})


def rows_of(folder: Path, **options: Any) -> tuple[list[dict[str, str]], list[dict[str, float]]]:
    notes = Notes()
    trainer = tiny_trainer(
        ApplyTuningPlan(), IoU(), MetricsCSV(), notes, max_epochs=3, default_root_dir=folder, **options
    )
    trainer.fit(tiny_task(), datamodule=tiny_data())
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file)), notes.rows


def test_there_is_one_row_an_epoch_with_what_was_logged(tmp_path: Path) -> None:
    rows, expected = rows_of(tmp_path)
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [row["step"] for row in rows] == ["2", "4", "6"]
    assert tuple(rows[0])[: len(FIRST)] == FIRST
    scores = {"iou", "dice", "precision", "recall", "f1", *(f"iou/{name}" for name in CLASS_NAMES)}
    scores |= {"pixel_accuracy", "frequency_weighted_iou", "kappa"}
    assert set(rows[0]) == {*FIRST, *(f"val/{name}" for name in scores)}
    for row, values in zip(rows, expected, strict=True):
        assert float(row["seconds"]) > 0
        assert 0 < float(row["memory_mb"]) <= round((memory.peak() or 0) / 1e6)
        for name in set(row) - {"epoch", "step", *MEASURED}:
            written = float(row[name] or "nan")
            assert written == pytest.approx(values[name], rel=1e-6, nan_ok=True), name


def test_memory_is_the_peak_of_the_process_and_left_out_where_the_system_does_not_report_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.reset_peak()
    before, ballast = memory.peak() or 0, torch.ones(50_000_000)
    rows, _ = rows_of(tmp_path / "linux")
    assert float(rows[-1]["memory_mb"]) >= before / 1e6 + ballast.nbytes / 1e6 - 1
    monkeypatch.setattr(memory, "PROCESS", tmp_path)
    rows, _ = rows_of(tmp_path / "other")
    assert "memory_mb" not in rows[0]


def test_an_epoch_without_a_validation_has_no_scores_of_another(tmp_path: Path) -> None:
    rows, _ = rows_of(tmp_path, check_val_every_n_epoch=2)
    assert [bool(row["val/iou"]) for row in rows] == [False, True, False]
    assert all(row["train/loss"] for row in rows)


def test_the_file_is_there_after_each_epoch_and_not_only_at_the_end(tmp_path: Path) -> None:
    seen: list[int] = []

    class Looks(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            seen.append(len((tmp_path / "metrics.csv").read_text().splitlines()))

    trainer = tiny_trainer(ApplyTuningPlan(), IoU(), MetricsCSV(), Looks(), max_epochs=3, default_root_dir=tmp_path)
    trainer.fit(tiny_task(), datamodule=tiny_data())
    assert seen == [2, 3, 4]


def test_columns_are_those_of_any_row_and_an_absent_class_is_left_empty(tmp_path: Path) -> None:
    rows = [{"epoch": 1, "b": 2.0}, {"epoch": 2, "val/iou": math.nan, "b": 3.0}, {"a": 0.5, "epoch": 3}]
    write_rows(tmp_path / "new" / "metrics.csv", rows)
    lines = (tmp_path / "new" / "metrics.csv").read_text().splitlines()
    assert lines == ["epoch,val/iou,b,a", "1,,2.0,", "2,,3.0,", "3,,,0.5"]
