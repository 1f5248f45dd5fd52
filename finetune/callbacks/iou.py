"""Logs the scores of every validation and test, from counts that are summed over all devices."""

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from finetune.tasks import require_task


class IoU(pl.Callback):
    """Logs all scores of the task's evaluator, such as `val/iou` and `val/iou/<class>`; `test/...` in a test.

    Every rank logs the same values. A table of all classes is printed after a test, and after a validation outside of
    a training.

    Attributes:
        counts: the evaluator's latest counts, summed over all ranks, on the CPU; None before the first evaluation.

    Args:
        table: whether to print the table.
    """

    def __init__(self, table: bool = True) -> None:
        self.table = table
        self.counts: dict[str, Tensor] | None = None

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Sum the counts over all ranks and log the scores."""
        self._log(pl_module, "val")

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Sum the counts over all ranks and log the scores."""
        self._log(pl_module, "test")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the table, except during a training."""
        if trainer.state.fn == "validate":
            self._print(pl_module)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the table."""
        self._print(pl_module)

    def _log(self, pl_module: pl.LightningModule, stage: str) -> None:
        task = require_task(pl_module, self)
        self.counts = task.sum_counts()
        task.log_dict({f"{stage}/{name}": value for name, value in task.evaluator.compute(self.counts).items()})

    @rank_zero_only
    def _print(self, pl_module: pl.LightningModule) -> None:
        if self.table and self.counts is not None:
            print(require_task(pl_module, self).evaluator.table(self.counts))
