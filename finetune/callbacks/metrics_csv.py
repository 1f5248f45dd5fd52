"""Writes `metrics.csv`: one row an epoch, every logged value a column."""

import csv
import io
import math
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from finetune.io.atomic_write import replace_text
from finetune.profiling.cost import peak_memory

MEASURED = ("seconds", "memory_mb")  # differ between equal trainings
FIRST = ("epoch", "step", *MEASURED, "lr", "train/loss", "val/loss", "val/iou")


class MetricsCSV(pl.Callback):
    """One row for each epoch, written when the epoch ends.

    Epochs are counted from 1, `seconds` are of the whole epoch with its validation, and `lr` is the largest of the
    optimizer's groups at its end. `memory_mb` is the peak so far: of the tensors on the first GPU, or of the first
    process in main memory. A score of an absent class is left empty.
    """

    def __init__(self) -> None:
        self._rows: list[dict[str, float]] = []
        self._began = 0.0
        self._scores: dict[str, float] = {}  # of the epoch's last validation
        self._restored: dict[str, Any] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Start with an empty table in each training."""
        if stage == "fit":
            self._rows, self._scores, self._restored = [], {}, {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Continue after the rows of a checkpoint. No epoch start follows if the training resumes inside an epoch."""
        if self._restored:
            self._rows, self._scores = list(self._restored["rows"]), dict(self._restored["scores"])
        self._began = time.perf_counter() - self._restored.get("seconds", 0.0)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._began, self._scores = time.perf_counter(), {}

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record the scores of the epoch."""
        if trainer.state.fn == "fit":
            logged = trainer.callback_metrics
            self._scores = {name: float(value) for name, value in logged.items() if name.startswith("val/")}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the table with the row of the epoch."""
        loss = getattr(pl_module, "train_loss", None)
        row: dict[str, float] = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step}
        row["seconds"] = round(time.perf_counter() - self._began, 3)
        if (memory := peak_memory(pl_module.device)) is not None:
            row["memory_mb"] = round(memory / 1e6)
        row["lr"] = max((group["lr"] for group in trainer.optimizers[0].param_groups), default=math.nan)
        row |= {"train/loss": float(loss)} if loss is not None else {}
        before = [other for other in self._rows if other["epoch"] < row["epoch"]]  # this one may have been cut short
        self._rows = [*before, row | self._scores]
        if trainer.is_global_zero:
            write_rows(Path(trainer.default_root_dir) / "metrics.csv", self._rows)

    def state_dict(self) -> dict[str, Any]:
        """Return the rows so far, and the values of the next one."""
        return {"rows": self._rows, "scores": self._scores, "seconds": time.perf_counter() - self._began}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until the training starts."""
        self._restored = state_dict


def write_rows(path: Path, rows: list[dict[str, float]]) -> None:
    """Write rows as CSV; the columns are those of any row, the known ones first."""
    names = dict.fromkeys(name for row in rows for name in row)
    columns = [name for name in FIRST if name in names] + [name for name in names if name not in FIRST]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="")
    writer.writeheader()
    writer.writerows({k: "" if math.isnan(v) else v for k, v in row.items()} for row in rows)
    replace_text(path, text.getvalue())
