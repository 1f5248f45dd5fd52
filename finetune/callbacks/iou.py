"""Logs the scores of every validation and test, from counts that are summed over all devices."""

import math

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_only

from finetune.engine.rank_zero import rank_zero_logger
from finetune.tasks import require_task

logger = rank_zero_logger(__name__)


class IoU(pl.Callback):
    """Logs all scores of the task's evaluator, such as `val/iou` and `val/iou/<class>`; `test/...` in a test.

    Every rank logs the same values. If outputs of the model are NaN or infinite, all scores are NaN, with a warning. A
    table of all classes is printed after a test, and after a validation outside of a training.

    Args:
        table: whether to print the table.
    """

    def __init__(self, table: bool = True) -> None:
        self.table = table

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
        scores = task.evaluator.compute(task.sum_counts())
        if task.non_finite_images:  # a score of such outputs is one of nothing: never the best, never an improvement
            scores = dict.fromkeys(scores, math.nan)
            logger.warning(
                f"the model's outputs are NaN or infinite for {task.non_finite_images:,} {stage} images; scores are NaN"
            )
        task.log_dict({f"{stage}/{name}": value for name, value in scores.items()})

    @rank_zero_only
    def _print(self, pl_module: pl.LightningModule) -> None:
        task = require_task(pl_module, self)
        if self.table and task.total_counts is not None and not task.non_finite_images:
            print(task.evaluator.table(task.total_counts))
