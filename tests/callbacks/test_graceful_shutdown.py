import os
import signal
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch

from finetune.callbacks import ApplyTuningPlan, GracefulShutdown, IoU
from finetune.callbacks.graceful_shutdown import TrainingInterrupted
from tests.tasks.tiny_run import tiny_data, tiny_task, tiny_trainer


class SignalledAfterValidation(pl.Callback):
    """Receives SIGTERM at the end of the first validation."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


def test_an_epoch_is_saved_before_the_training_stops_also_without_a_checkpoint_callback(tmp_path: Path) -> None:
    callbacks = (ApplyTuningPlan(), IoU(), SignalledAfterValidation(), GracefulShutdown())
    trainer = tiny_trainer(*callbacks, max_epochs=3, default_root_dir=tmp_path)
    with pytest.raises(TrainingInterrupted, match="stopped by SIGTERM"):
        trainer.fit(tiny_task(), datamodule=tiny_data())
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 2
