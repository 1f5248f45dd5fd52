"""A training that changes nothing, on one rank or two, for `test_diagnosis.py`."""

import logging
import os
from typing import Any
from unittest.mock import patch

import torch

from finetune.callbacks import ApplyTuningPlan, Diagnosis, IoU
from finetune.data.module import SegmentationData
from finetune.tasks import SemanticTask
from finetune.tuning.plan import Plan, Rule
from tests.tasks.tiny_run import tiny_task, tiny_trainer


class Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def steady_task() -> SemanticTask:
    """Return a task that training does not change."""
    return tiny_task(lr=0.0, plan=Plan((Rule("backbone", train=False, norms="eval"), Rule("."))))


def validation_images() -> Any:
    from tests.callbacks.test_diagnosis import Bars  # which imports this module

    return Bars(7, seed=1)


def named_images() -> list[str]:
    """Return what this rank logs about a validation that looks like overfitting."""
    lines, log = Lines(), logging.getLogger("finetune.callbacks.diagnosis")
    ranks = int(os.environ.get("WORLD_SIZE", 1))
    trainer = tiny_trainer(
        *(ApplyTuningPlan(), IoU(), Diagnosis()), devices=ranks, strategy="ddp" if ranks > 1 else "auto"
    )
    images = validation_images()
    log.addHandler(lines)
    try:
        with patch("finetune.callbacks.diagnosis.overfitting", return_value="overfitting."):
            trainer.fit(steady_task(), datamodule=SegmentationData(images, images, batch_size=2))
    finally:
        log.removeHandler(lines)
    return lines.lines


def losses_by_hand() -> dict[str, float]:
    """Return the loss of each validation image by its name."""
    images, task = validation_images(), steady_task().eval()
    batches = [{key: torch.as_tensor(value)[None] for key, value in sample.items()} for sample in images]
    with torch.no_grad():
        losses = [float(task.losses(batch)[0]) for batch in batches]
    return dict(zip(images.names, losses, strict=True))
