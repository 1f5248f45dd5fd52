"""The callback that stops all ranks together when the monitored score no longer improves."""

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import EarlyStopping as LightningEarlyStopping
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from torch import Tensor

from finetune.engine.rank_zero import rank_zero_logger
from finetune.io.messages import suggest
from finetune.metrics.monitor import monitor_mode
from finetune.tasks import TuningTask

logger = rank_zero_logger(__name__)


class EarlyStopping(LightningEarlyStopping):
    """Lightning's early stopping, which also waits for the tuning plan and logs why it stops.

    It counts no validations while the plan still has layers to unfreeze, because these may improve the score. A score
    that is not finite stops the training only if the model's outputs are not. Scores are reduced before they are
    logged, so all ranks decide on the same value.

    Args:
        monitor: logged value, such as `val/iou`.
        patience: validations without improvement before the training stops.
        mode: `auto`, `max` or `min`; see `monitor_mode`.
        min_delta: smallest change that counts as an improvement.

    Raises:
        ValueError: the monitor is not logged; raised at the first validation.
    """

    def __init__(
        self, monitor: str = "val/iou", patience: int = 10, mode: str = "auto", min_delta: float = 0.0
    ) -> None:
        if patience < 1 or not min_delta >= 0:
            raise ValueError(f"patience={patience}, min_delta={min_delta}: expected 1 or more, and 0 or more.")
        direction = monitor_mode(monitor, mode)
        super().__init__(monitor, min_delta, patience, mode=direction, check_on_train_epoch_end=False)
        self._plan_is_pending = False
        self._untrained = self.state_dict()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Forget the scores of an earlier training."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self.load_state_dict({**self._untrained, "patience": self.patience})

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop if the score has not improved for too long."""
        if isinstance(pl_module, TuningTask):
            self._plan_is_pending = pl_module.plan_is_pending()
            # a score may be 0/0, such as the precision of a class that is not predicted yet: no improvement, but no end
            self.check_finite = pl_module.non_finite_images > 0
        super().on_validation_end(trainer, pl_module)

    def _evaluate_stopping_criteria(self, current: Tensor) -> tuple[bool, str | None]:
        stop, reason = super()._evaluate_stopping_criteria(current)
        if not self._plan_is_pending:
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
        """Stop at once if the checkpoint's training had stopped early, unless the patience is larger now."""
        if self.stopping_reason == EarlyStoppingReason.PATIENCE_EXHAUSTED and self.wait_count < self.patience:
            self.stopping_reason, self.stopping_reason_message = EarlyStoppingReason.NOT_STOPPED, None
            self.stopped_epoch = 0
        if self.stopping_reason != EarlyStoppingReason.NOT_STOPPED:
            trainer.should_stop = True

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state, except for the patience, which may have changed."""
        super().load_state_dict({**state_dict, "patience": self.patience})

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log why the training was stopped, if it was."""
        if self.stopping_reason_message:
            message = self.stopping_reason_message.replace(" Signaling Trainer to stop.", "")
            logger.info(f"stopped early after epoch {self.stopped_epoch + 1}: {message}")
