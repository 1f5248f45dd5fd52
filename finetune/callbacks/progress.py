"""The callback that shows the progress of a training: a bar on a terminal, and one line for each epoch."""

import logging
import math
import sys
import time
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from finetune.engine.loop_state import window_scale
from finetune.metrics.monitor import monitor_mode

logger = logging.getLogger(__name__)


class Progress(ProgressBar):
    """A progress bar with loss, best score, speed and time left.

    At the end of each epoch it logs one line. On a terminal it also shows a bar below the lines. Reading the loss waits
    for the device, so the bar is refreshed only every `refresh` seconds.

    Args:
        refresh: seconds between two updates of the bar.
        monitor: score of which the best so far is shown.
        mode: `auto`, `max` or `min`; see `monitor_mode`.
    """

    def __init__(self, refresh: float = 0.5, monitor: str = "val/iou", mode: str = "auto") -> None:
        super().__init__()
        self.refresh = refresh
        self.monitor = monitor
        self._better = max if monitor_mode(monitor, mode) == "max" else min
        self._bar: RichProgress | None = None
        self._enabled = True
        self._images = 0
        self._shown = self._began = self._training = self._started = 0.0
        self._first_epoch = 0
        self._best = math.nan
        self._validated = False  # in this epoch

    def disable(self) -> None:
        """Show and log nothing; Lightning calls this on every rank but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Show the bar again."""
        self._enabled = True

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Forget the best score of an earlier training."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._best = math.nan

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock, and open the bar on a terminal."""
        super().on_train_start(trainer, pl_module)
        # a training that is resumed inside an epoch gets no epoch start
        self._started = self._began = time.perf_counter()
        self._first_epoch = trainer.current_epoch
        if self._enabled and sys.stderr.isatty():
            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[status]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.start()
            self._bar.add_task("training", total=trainer.estimated_stepping_batches, status="")

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reset the clock, the number of images, and whether there was a validation."""
        self._images, self._began, self._validated = 0, time.perf_counter(), False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note that the epoch has scores of its own, and the best one so far."""
        super().on_validation_end(trainer, pl_module)
        self._validated = True
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            latest = float(trainer.callback_metrics.get(self.monitor, math.nan))
            scores = [score for score in (self._best, latest) if not math.isnan(score)]
            self._best = self._better(scores, default=math.nan)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the images, and update the bar if it is due."""
        self._images += len(batch["image"]) * trainer.world_size
        now = time.perf_counter()
        self._training = now - self._began
        if self._bar is not None and now - self._shown > self.refresh:
            self._shown = now
            best = f"best {self.monitor.rpartition('/')[2]} {self._best:.3f}  " if self._best == self._best else ""
            # Lightning divides by the batches of a step, and the task may have multiplied
            loss = float(outputs["loss"]) * trainer.accumulate_grad_batches / window_scale(trainer, batch_idx)
            status = f"loss {loss:.3f}  {best}{self._speed():.1f} images/s"
            self._bar.update(
                self._bar.task_ids[0],
                completed=trainer.global_step,
                description=f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}",
                status=status,
            )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the line of the epoch."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if self._enabled:
            loss = getattr(pl_module, "train_loss", None)
            metrics |= {"train/loss": float(loss)} if loss is not None else {}
            logger.info(self._line(trainer, metrics))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Close the bar, so that it does not hide the error message."""
        self._close()

    def state_dict(self) -> dict[str, Any]:
        """Return the best score so far."""
        return {"best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best score."""
        self._best = state_dict["best"]

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _speed(self) -> float:
        return self._images / max(self._training, 1e-9)

    def _line(self, trainer: pl.Trainer, metrics: dict[str, float]) -> str:
        done = trainer.current_epoch + 1 - self._first_epoch
        now = time.perf_counter()
        left = (now - self._started) / done * ((trainer.max_epochs or 0) - trainer.current_epoch - 1)
        labels = {"train/loss": "loss", "val/loss": "val loss", "val/iou": "val iou"}
        shown = labels | {self.monitor: labels.get(self.monitor, self.monitor)}
        new = {key: value for key, value in metrics.items() if self._validated or not key.startswith("val/")}
        values = "  ".join(f"{label} {new[key]:.4f}" for key, label in shown.items() if key in new)
        of = "" if self.monitor == "val/iou" else f" {self.monitor}"
        best = f"  best{of} {self._best:.4f}" if self._best == self._best else ""
        return (
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {values}{best}  "
            f"{self._speed():.1f} images/s  {now - self._began:.0f} s  {_clock(left)} left"
        )


def _clock(seconds: float) -> str:
    """Format seconds as minutes and seconds, with hours if there are any.

    >>> _clock(75.2), _clock(7384)
    ('1:15', '2:03:04')
    """
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
