"""Saves `last.ckpt` after every epoch, and more often if wanted; `best.ckpt` whenever the monitored score improves."""

import logging
import math
import time
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint as LightningCheckpoint
from lightning.pytorch.utilities import rank_zero_only

from finetune.checkpoints.checkpoint_io import after_write
from finetune.checkpoints.rotation import numbered, restore_best_order, rotate_in
from finetune.engine.loop_state import accumulates, can_save, ends_epoch
from finetune.io.atomic_write import PART

logger = logging.getLogger(__name__)

NEXT = "next.ckpt"  # complete, but not yet known by its names
ASK = 10  # steps between two looks at the clock of the first rank, which decides for all


class Checkpoint(LightningCheckpoint):
    """Keeps the newest and the best checkpoints of a run in its `checkpoints/`.

    A checkpoint holds plain data and loads with `weights_only=True`. From one of the last, a training goes on to the
    same weights as if it had never stopped. So it does from one of the best, unless that is of a validation while
    gradients were accumulated.

    Args:
        monitor: a value that is logged at each validation, such as `val/iou`.
        mode: `max` or `min`.
        every_n_steps: optimizer steps between two checkpoints inside an epoch; None for none.
        every_n_minutes: the same by the clock.
        keep_last: how many of the newest stay; `last_2.ckpt` is there in case `last.ckpt` gets damaged.
        keep_best: how many of the best stay; `best_2.ckpt` is the second best.

    Attributes:
        folder: of the checkpoints.
        best: score, epoch and step of the best, in order.
    """

    def __init__(
        self,
        monitor: str = "val/iou",
        mode: str = "max",
        every_n_steps: int | None = None,
        every_n_minutes: float | None = None,
        keep_last: int = 2,
        keep_best: int = 1,
    ) -> None:
        if mode not in ("max", "min"):
            raise ValueError(f"Checkpoint has mode='{mode}'; expected max or min.")
        for name, value in {"every_n_steps": every_n_steps, "every_n_minutes": every_n_minutes}.items():
            if value is not None and value <= 0:
                raise ValueError(f"Checkpoint has {name}={value}; expected a number above 0, or null for none.")
        for name, count in {"keep_last": keep_last, "keep_best": keep_best}.items():
            if count < 1:
                raise ValueError(f"Checkpoint has {name}={count}; expected 1 or more.")
        self.monitor = monitor
        self.mode = mode
        self.every_n_steps = every_n_steps
        self.every_n_minutes = every_n_minutes
        self.keep_last = keep_last
        self.keep_best = keep_best
        self.folder = Path()
        self.best: list[dict[str, float]] = []
        self._rank: int | None = None  # of what is to be saved, among the best
        self._step, self._time = 0, 0.0  # of the last save

    @property
    def best_path(self) -> Path | None:
        """The file of the best score; None before the first."""
        return self.folder / numbered("best", 0) if self.best else None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Settle the folder, and begin anew with each training."""
        if stage == "fit":
            self.folder = Path(trainer.default_root_dir) / "checkpoints"
            self.best, self._rank = [], None
            if trainer.is_global_zero:  # what a killed process was writing
                for path in (*self.folder.glob(f"*{PART}"), self.folder / NEXT):
                    path.unlink(missing_ok=True)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to count steps and time, with the best in their order."""
        self._step, self._time = trainer.global_step, time.monotonic()
        if self.best:
            steps = [int(entry["step"]) for entry in self.best]
            there = restore_best_order(self.folder, steps) if trainer.is_global_zero else []
            self.best = [self.best[place] for place in trainer.strategy.broadcast(there)]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save between two steps of an epoch, when it is due."""
        if self._is_due(trainer) and can_save(trainer):
            self.save(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """See whether the score is among the best; a validation that ends an epoch is saved with the epoch."""
        if trainer.state.fn != "fit" or trainer.sanity_checking or trainer.fast_dev_run:  # type: ignore[attr-defined]  # missing in the class
            return
        self._rank = self._place(trainer)
        if not ends_epoch(trainer):
            self._save_if_wanted(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the epoch, with everything that was noted about it; a training that goes on may go on inside it."""
        self._save_if_wanted(trainer)

    def _save_if_wanted(self, trainer: pl.Trainer) -> None:
        """Save as the last where a training can go on from it exactly; else only what is among the best."""
        exact = not accumulates(trainer)
        if exact or self._rank is not None:
            self.save(trainer, as_last=exact)

    def save(self, trainer: pl.Trainer, as_last: bool = True) -> None:
        """Save now; called by all ranks.

        Args:
            trainer: of the training.
            as_last: whether the training can go on from it; if not, it is only one of the best.
        """
        rank, self._rank = self._rank, None
        self._step, self._time = trainer.global_step, time.monotonic()
        if trainer.fast_dev_run:  # type: ignore[attr-defined]  # missing in the class
            return
        trainer.save_checkpoint(self.folder / NEXT, weights_only=False)
        if trainer.is_global_zero:
            keep_last = self.keep_last if as_last else 0
            after_write(trainer, partial(rotate_in, self.folder / NEXT, rank, len(self.best), keep_last))

    def state_dict(self) -> dict[str, Any]:
        """The best scores so far, and of what."""
        return {"best": self.best, "monitor": self.monitor, "mode": self.mode}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there; with none where it is something else now that is compared."""
        before = state_dict.get("monitor", self.monitor), state_dict.get("mode", self.mode)
        if before == (self.monitor, self.mode):
            self.best = list(state_dict["best"])[: self.keep_best]
        else:
            _say(
                f"checkpoint.monitor={self.monitor} checkpoint.mode={self.mode} instead of {' and '.join(before)}: the "
                f"best are those from here on. {numbered('best', 0)} stays as it is until there is one."
            )

    def _place(self, trainer: pl.Trainer) -> int | None:
        """Put the score in order with the best; its rank, or None if it is not among them."""
        logged = trainer.callback_metrics
        if self.monitor not in logged:
            raise ValueError(
                f"Checkpoint monitors '{self.monitor}', which nobody logs. Logged are {', '.join(sorted(logged))}; "
                f"set checkpoint.monitor to one of them."
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
        steps = trainer.global_step - self._step
        if steps and self.every_n_steps is not None and trainer.global_step % self.every_n_steps == 0:
            return True
        if self.every_n_minutes is None or (trainer.world_size > 1 and trainer.global_step % ASK):
            return False
        late = time.monotonic() - self._time >= 60 * self.every_n_minutes
        return bool(trainer.strategy.broadcast(late)) if trainer.world_size > 1 else late


@rank_zero_only
def _say(message: str) -> None:
    logger.info(message)
