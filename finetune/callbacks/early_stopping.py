"""Stops all ranks together when the monitored score no longer improves."""

import logging
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import EarlyStopping as LightningEarlyStopping
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from finetune.io.messages import suggest
from finetune.tasks import TuningTask

logger = logging.getLogger(__name__)


class EarlyStopping(LightningEarlyStopping):
    """Lightning's early stopping, with a say, and with patience for a tuning plan.

    Every rank decides on the same value, because scores are reduced before they are logged, and one that wants to
    stop stops all. While a plan has something still to unfreeze, a score that does not improve stops nothing:
    what is to come may be what it lacks.

    Args:
        monitor: a logged value, such as `val/iou`.
        patience: validations without improvement before it stops.
        mode: `max` or `min`.
        min_delta: what counts as improvement.

    Raises:
        ValueError: at the first validation, when nobody logs the monitor; the nearest logged names are shown.
    """

    def __init__(self, monitor: str = "val/iou", patience: int = 10, mode: str = "max", min_delta: float = 0.0) -> None:
        super().__init__(monitor, min_delta=min_delta, patience=patience, mode=mode, check_on_train_epoch_end=False)
        self._plan_goes_on = False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """See whether the score has improved."""
        self._plan_goes_on = isinstance(pl_module, TuningTask) and pl_module.plan_is_pending()
        super().on_validation_end(trainer, pl_module)

    def _evaluate_stopping_criteria(self, current: Tensor) -> tuple[bool, str | None]:
        stop, reason = super()._evaluate_stopping_criteria(current)
        if not self._plan_goes_on:
            return stop, reason
        self.wait_count = 0
        if self.stopping_reason == EarlyStoppingReason.PATIENCE_EXHAUSTED:
            self.stopping_reason = EarlyStoppingReason.NOT_STOPPED
            return False, None
        return stop, reason

    def _validate_condition_metric(self, logs: dict[str, Tensor]) -> bool:
        if self.monitor in logs:
            return True
        raise ValueError(
            f"early stopping monitors '{self.monitor}', which is not logged. {suggest(self.monitor, sorted(logs))} Set "
            f"callbacks.early_stopping.monitor to a logged value."
        )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop at once where a checkpoint says that the training was over, unless there is more patience now."""
        if self.stopping_reason == EarlyStoppingReason.PATIENCE_EXHAUSTED and self.wait_count < self.patience:
            self.stopping_reason, self.stopping_reason_message = EarlyStoppingReason.NOT_STOPPED, None
            self.stopped_epoch = 0
        if self.stopping_reason != EarlyStoppingReason.NOT_STOPPED:
            trainer.should_stop = True

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there, but with the patience that is asked for now."""
        super().load_state_dict({**state_dict, "patience": self.patience})

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say why the training was stopped, if it was."""
        if self.stopping_reason_message:
            message = self.stopping_reason_message.replace(" Signaling Trainer to stop.", "")
            _say(f"stopped early after epoch {self.stopped_epoch + 1}: {message}")


@rank_zero_only
def _say(message: str) -> None:
    logger.info(message)
