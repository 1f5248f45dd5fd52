"""Logs IoU and its companions from one confusion matrix over all devices."""

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from finetune.metrics.confusion import iou, scores
from finetune.metrics.table import class_table
from finetune.tasks import SemanticTask


class IoU(pl.Callback):
    """Scores of every validation and test.

    Logs `val/iou`, the IoU over the whole set averaged over the classes present, likewise `val/dice`,
    `val/precision`, `val/recall`, `val/f1` and `val/pixel_accuracy`, and `val/iou/<class>`; `test/...` in a test.
    Every rank logs the same values. A table of all classes is printed at the end of a test or of a validation
    that stands alone.

    Attributes:
        matrix: the latest confusion matrix (K, K), int64, of all ranks; rows are the truth.

    Args:
        table: whether to print the table.
    """

    def __init__(self, table: bool = True) -> None:
        self.table = table
        self.matrix: Tensor | None = None

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Sum the matrix over all ranks and log the scores."""
        self._log(pl_module, "val")

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Sum the matrix over all ranks and log the scores."""
        self._log(pl_module, "test")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the table, unless a training goes on."""
        if trainer.state.fn == "validate":
            self._print(pl_module)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the table."""
        self._print(pl_module)

    def _log(self, pl_module: pl.LightningModule, stage: str) -> None:
        task = _task(pl_module)
        self.matrix = task.epoch_matrix().cpu()
        values = scores(self.matrix)
        values |= {f"iou/{name}": float(v) for name, v in zip(task.model.class_names, iou(self.matrix), strict=True)}
        task.log_dict({f"{stage}/{name}": value for name, value in values.items()})

    @rank_zero_only
    def _print(self, pl_module: pl.LightningModule) -> None:
        if self.table and self.matrix is not None:
            print(class_table(self.matrix, _task(pl_module).model.class_names))


def _task(pl_module: pl.LightningModule) -> SemanticTask:
    if not isinstance(pl_module, SemanticTask):
        raise TypeError(f"the IoU callback needs a SemanticTask, which counts; got {type(pl_module).__name__}.")
    return pl_module
