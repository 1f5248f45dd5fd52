"""Applies the tuning plan: before the strategy wraps the model, at every epoch start, and after every validation."""

import logging

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_only

from finetune.tasks import TuningTask

logger = logging.getLogger(__name__)


class Tuning(pl.Callback):
    """Keeps what is frozen frozen, and says once what trains."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Freeze before DDP registers gradients (it must meet no parameter that never gets one)."""
        if stage == "fit":
            _task(pl_module).apply_plan()

    @rank_zero_only
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log which rule took what."""
        for line in _task(pl_module).describe_plan():
            logger.info(line)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Apply the plan, whatever called `train()` meanwhile."""
        _task(pl_module).apply_plan()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Apply the plan after a validation in the middle of an epoch too."""
        if trainer.state.fn == "fit":
            _task(pl_module).apply_plan()


def _task(pl_module: pl.LightningModule) -> TuningTask:
    if not isinstance(pl_module, TuningTask):
        raise TypeError(f"the Tuning callback needs a TuningTask with a plan to apply, got {type(pl_module).__name__}.")
    return pl_module
