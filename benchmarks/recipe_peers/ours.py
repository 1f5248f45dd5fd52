"""A run of `finetune train` that takes a given time."""

import json
import shutil
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

import finetune
from finetune.config.compose import compose
from finetune.io.allocator import keep_memory
from finetune.recipe.budget import Length, Pace, fit_budget
from finetune.recipe.rules import FEW_STEPS, SHORT_BATCH

CLOCK = "+callbacks.clock._target_=recipe_peers.ours.Clock"
PROBE = 12  # steps of each of the two epochs that are timed
WARMUP = 2  # of them, which are not counted


class Clock(pl.Callback):
    """Takes the CPU time of the process over the fit, its steps and its validations."""

    latest: "Clock"

    def __init__(self) -> None:
        self.cpu_seconds = 0.0
        self.wall_seconds = 0.0
        self.steps: list[float] = []
        self.validations: list[float] = []
        Clock.latest = self

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start."""
        self._begin, self._wall = time.process_time(), time.perf_counter()
        self._mark = self._begin

    def on_train_batch_end(self, *_: Any) -> None:
        """Note the time since the batch before, with the making of this one."""
        now = time.process_time()
        self.steps.append(now - self._mark)
        self._mark = now

    def on_train_epoch_start(self, *_: Any) -> None:
        """End the time of what came between two epochs: a validation, figures and checkpoints."""
        now = time.process_time()
        if self.steps:
            self.validations.append(now - self._mark)
        self._mark = now

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop."""
        self.cpu_seconds = time.process_time() - self._begin
        self.wall_seconds = time.perf_counter() - self._wall


def run(overrides: Sequence[str], seconds: float, folder: Path, probe: Path, fixed: bool) -> dict[str, float]:
    """Train and test, and return the columns of the table.

    Args:
        overrides: of `finetune train`.
        seconds: of the training, validations included.
        folder: of the run.
        probe: file that keeps the length of the training, so that further seeds are not timed again.
        fixed: fix the length by timed steps, although there may be a setting `budget`.
    """
    keep_memory()  # as the command does
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was interrupted
    if not fixed and "budget" in compose("data=synthetic"):
        length: tuple[str, ...] = (f"budget={seconds:g}s",)
    else:
        if not probe.is_file():
            probe.parent.mkdir(parents=True, exist_ok=True)
            probe.write_text(json.dumps(measured_length(overrides, seconds, folder)))
        length = tuple(json.loads(probe.read_text()))
    result = finetune.train(*overrides, *length, CLOCK, f"output={folder}")
    clock = Clock.latest
    shutil.rmtree(folder / "checkpoints")  # 70 MB a run; the model stays
    return {
        "test": json.loads((folder / "evaluation" / "test" / "scores.json").read_text())["iou"],
        "val": result.score,
        "cpu_seconds": clock.cpu_seconds,
        "wall_seconds": clock.wall_seconds,
        "steps": len(clock.steps),
    }


def measured_length(overrides: Sequence[str], seconds: float, folder: Path) -> tuple[str, ...]:
    """Time a few steps and a validation, and return the overrides of a training of about `seconds` of CPU time.

    The batch is smaller where few steps fit, as with a budget of time.
    """
    batch: tuple[str, ...] = ()
    length = _length_in_time(overrides, seconds, folder)
    if length.steps < FEW_STEPS and not any(override.startswith("data.batch_size") for override in overrides):
        batch = (f"data.batch_size={SHORT_BATCH}",)
        length = _length_in_time((*overrides, *batch), seconds, folder)
    spaced = ("trainer.check_val_every_n_epoch=null", f"+trainer.val_check_interval={length.steps_between}")
    return (*batch, f"budget={length.steps}steps", *spaced)


def _length_in_time(overrides: Sequence[str], seconds: float, folder: Path) -> Length:
    """Return the steps and validations that fit, by the mean of all steps: crops differ in what they cost."""
    shape = ("trainer.max_epochs=2", f"+trainer.limit_train_batches={PROBE}", "+trainer.limit_test_batches=0")
    finetune.train(*overrides, *shape, CLOCK, f"output={folder}")
    step, validation = statistics.mean(Clock.latest.steps[WARMUP:]), Clock.latest.validations[0]
    shutil.rmtree(folder)
    return fit_budget(seconds, Pace(0.0, step, validation, 0.0))
