"""Writes `metrics.csv`: one row an epoch, every logged value a column."""

import csv
import math
import time
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_only

FIRST = ("epoch", "step", "seconds", "lr", "train/loss", "val/loss", "val/iou")


class MetricsCSV(pl.Callback):
    """One row for each epoch, written when the epoch ends.

    Epochs are counted from 1, `seconds` are of the whole epoch with its validation, and `lr` is the largest of the
    optimizer's groups at its end. A score of an absent class is left empty.
    """

    def __init__(self) -> None:
        self._rows: list[dict[str, float]] = []
        self._began = 0.0
        self._validated = False

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._began, self._validated = time.perf_counter(), False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note that the epoch has scores of its own."""
        self._validated = True

    @rank_zero_only
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the row."""
        loss = getattr(pl_module, "train_loss", None)
        row: dict[str, float] = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step}
        row["seconds"] = round(time.perf_counter() - self._began, 3)
        row["lr"] = max((group["lr"] for group in trainer.optimizers[0].param_groups), default=math.nan)
        row |= {"train/loss": float(loss)} if loss is not None else {}
        if self._validated:
            row |= {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
        self._rows.append(row)
        write_rows(Path(trainer.default_root_dir) / "metrics.csv", self._rows)


def write_rows(path: Path, rows: list[dict[str, float]]) -> None:
    """Rows as CSV; columns are those of any row, the known ones first."""
    found = dict.fromkeys(key for row in rows for key in row)
    columns = [key for key in FIRST if key in found] + [key for key in found if key not in FIRST]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows({k: "" if math.isnan(v) else v for k, v in row.items()} for row in rows)
