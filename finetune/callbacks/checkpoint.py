"""Saves `last.ckpt` after every validation and `best.ckpt` whenever the monitored score improves."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint


class Checkpoint(ModelCheckpoint):
    """Lightning's checkpointing with two stable names in the run folder's `checkpoints/`.

    A checkpoint holds plain data and loads with `weights_only=True`. With it comes the model's own config under
    `model_config`, so that the model can be rebuilt from the file alone.

    Args:
        monitor: a logged value, such as `val/iou`.
        mode: `max` or `min`.
    """

    def __init__(self, monitor: str = "val/iou", mode: str = "max") -> None:
        super().__init__(
            monitor=monitor,
            mode=mode,
            filename="best",
            save_top_k=1,
            auto_insert_metric_name=False,  # the monitor has a slash in it
            enable_version_counter=False,  # a better one replaces best.ckpt
            save_on_train_epoch_end=False,
        )

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Settle the folder."""
        self.dirpath = self.dirpath or str(Path(trainer.default_root_dir) / "checkpoints")
        super().setup(trainer, pl_module, stage)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the best, if this is it, and the last in any case (Lightning's own waits for an improvement)."""
        super().on_validation_end(trainer, pl_module)
        if trainer.state.fn == "fit" and not trainer.sanity_checking and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self.last_model_path = str(Path(self.dirpath or "") / "last.ckpt")
            trainer.save_checkpoint(self.last_model_path)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add what the model is built from."""
        config = getattr(pl_module.model, "config", None)
        if callable(config):
            checkpoint["model_config"] = config()
