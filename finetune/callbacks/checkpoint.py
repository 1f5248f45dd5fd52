"""The callback that saves `last.ckpt` after every epoch, and `best.ckpt` when the monitored score improves."""

import math
import time
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint as LightningCheckpoint

from finetune.checkpoints.checkpoint_io import after_write
from finetune.checkpoints.rotation import numbered, restore_best_order, rotate_in
from finetune.engine.lightning_private import is_accumulating
from finetune.engine.loop_state import can_save, ends_epoch
from finetune.engine.rank_zero import rank_zero_logger
from finetune.io.atomic_write import PART
from finetune.metrics.monitor import monitor_mode

logger = rank_zero_logger(__name__)

NEXT = "next.ckpt"  # complete, but not yet linked to as last or best
CLOCK_CHECK_EVERY_N_STEPS = 10  # on several ranks, where rank 0's clock decides for all


class Checkpoint(LightningCheckpoint):
    """A callback that keeps the newest and the best checkpoints of a run in its `checkpoints/` folder.

    A checkpoint holds plain data and loads with `weights_only=True`. A training that is resumed from a last checkpoint
    ends with the same weights as an uninterrupted one. So does one that is resumed from a best checkpoint, unless that
    was saved while gradients were accumulated.

    Args:
        monitor: value that is logged at each validation, such as `val/iou`.
        mode: `auto`, `max` or `min`; see `monitor_mode`.
        every_n_steps: optimizer steps between two checkpoints inside an epoch; None for none.
        every_n_minutes: minutes between two checkpoints inside an epoch; None for none.
        keep_last: number of newest checkpoints to keep; `last_2.ckpt` is a spare for a corrupt `last.ckpt`.
        keep_best: number of best checkpoints to keep; `best_2.ckpt` is the second best.

    Attributes:
        folder: folder of the checkpoints.
        best: score, epoch and step of each best checkpoint, best first.
    """

    def __init__(
        self,
        monitor: str = "val/iou",
        mode: str = "auto",
        every_n_steps: int | None = None,
        every_n_minutes: float | None = None,
        keep_last: int = 2,
        keep_best: int = 1,
    ) -> None:
        for name, value in {"every_n_steps": every_n_steps, "every_n_minutes": every_n_minutes}.items():
            if value is not None and value <= 0:
                raise ValueError(f"Checkpoint has {name}={value}; expected a number above 0, or null for none.")
        for name, count in {"keep_last": keep_last, "keep_best": keep_best}.items():
            if count < 1:
                raise ValueError(f"Checkpoint has {name}={count}; expected 1 or more.")
        self.monitor = monitor
        self.mode = monitor_mode(monitor, mode)
        self.every_n_steps = every_n_steps
        self.every_n_minutes = every_n_minutes
        self.keep_last = keep_last
        self.keep_best = keep_best
        self.folder = Path()
        self.best: list[dict[str, float]] = []
        self._rank: int | None = None  # among the best, of the checkpoint to be saved next
        self._saved_step, self._saved_time = 0, 0.0  # of the last save

    @property
    def best_path(self) -> Path | None:
        """Return the file of the best checkpoint, or None before the first one."""
        return self.folder / numbered("best", 0) if self.best else None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Set the folder, and reset the state for a new training."""
        if stage == "fit":
            self.folder = Path(trainer.default_root_dir) / "checkpoints"
            self.best, self._rank = [], None
            if trainer.is_global_zero:  # remove what a killed process was writing
                for path in (*self.folder.glob(f"*{PART}"), self.folder / NEXT):
                    path.unlink(missing_ok=True)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start to count steps and time, and bring the files of the best checkpoints into order."""
        self._saved_step, self._saved_time = trainer.global_step, time.monotonic()
        if self.best:
            steps = [int(entry["step"]) for entry in self.best]
            present = restore_best_order(self.folder, steps) if trainer.is_global_zero else []
            self.best = [self.best[index] for index in trainer.strategy.broadcast(present)]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save inside an epoch, if a checkpoint is due."""
        if self._is_due(trainer) and can_save(trainer):
            self.save(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Rank the score, and save, unless the epoch ends here and is saved soon."""
        if trainer.state.fn != "fit" or trainer.sanity_checking or trainer.fast_dev_run:  # type: ignore[attr-defined]  # missing in the class
            return
        self._rank = self._rank_score(trainer)
        if not ends_epoch(trainer):
            self._save_after_validation(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the epoch, after all other hooks have recorded it."""
        self._save_after_validation(trainer)

    def _save_after_validation(self, trainer: pl.Trainer) -> None:
        """Save as the last checkpoint if a training can be resumed exactly from it; otherwise only as a best one."""
        exact = not is_accumulating(trainer)
        if exact or self._rank is not None:
            self.save(trainer, as_last=exact)

    def save(self, trainer: pl.Trainer, as_last: bool = True) -> None:
        """Save now. Collective.

        Args:
            trainer: of the training.
            as_last: whether to save as the last checkpoint too; if not, only as one of the best.
        """
        rank, self._rank = self._rank, None
        self._saved_step, self._saved_time = trainer.global_step, time.monotonic()
        if trainer.fast_dev_run:  # type: ignore[attr-defined]  # missing in the class
            return
        trainer.save_checkpoint(self.folder / NEXT, weights_only=False)
        if trainer.is_global_zero:
            keep_last = self.keep_last if as_last else 0
            after_write(trainer, partial(rotate_in, self.folder / NEXT, rank, len(self.best), keep_last))

    def state_dict(self) -> dict[str, Any]:
        """Return the best scores so far, with their monitor and mode."""
        return {"best": self.best, "monitor": self.monitor, "mode": self.mode}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best scores, unless the monitor or mode has changed."""
        before = state_dict.get("monitor", self.monitor), state_dict.get("mode", self.mode)
        if before == (self.monitor, self.mode):
            self.best = list(state_dict["best"])[: self.keep_best]
        else:
            logger.info(
                f"checkpoint.monitor={self.monitor} checkpoint.mode={self.mode} instead of {' and '.join(before)}: the "
                f"best scores start again here. {numbered('best', 0)} stays until there is a new one."
            )

    def _rank_score(self, trainer: pl.Trainer) -> int | None:
        """Insert the score into the best ones; return its rank from 0, or None if it is not among them."""
        logged = trainer.callback_metrics
        if self.monitor not in logged:
            raise ValueError(
                f"Checkpoint monitors '{self.monitor}', which is not logged. Set checkpoint.monitor to one of: "
                f"{', '.join(sorted(logged))}."
            )
        score = float(logged[self.monitor])
        sign = -1 if self.mode == "max" else 1
        rank = sum(sign * entry["score"] <= sign * score for entry in self.best)
        if math.isnan(score) or rank >= self.keep_best:
            return None
        entry = {"score": score, "epoch": trainer.current_epoch + 1, "step": trainer.global_step}
        self.best = [*self.best[:rank], entry, *self.best[rank:]][: self.keep_best]
        return rank

    def _is_due(self, trainer: pl.Trainer) -> bool:
        steps = trainer.global_step - self._saved_step
        if steps and self.every_n_steps is not None and trainer.global_step % self.every_n_steps == 0:
            return True
        if self.every_n_minutes is None or (trainer.world_size > 1 and trainer.global_step % CLOCK_CHECK_EVERY_N_STEPS):
            return False
        is_due = time.monotonic() - self._saved_time >= 60 * self.every_n_minutes
        return bool(trainer.strategy.broadcast(is_due)) if trainer.world_size > 1 else is_due
