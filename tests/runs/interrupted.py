"""Small trainings that an error or a signal ends, and comparisons of runs."""

import csv
import os
import shutil
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from safetensors.torch import load_file

import finetune
from finetune.callbacks.metrics_csv import MEASURED
from tests.samples import SYNTHETIC

# a checkpoint after each of the 6 steps: 3 epochs of 2
OVERRIDES = (*SYNTHETIC, "trainer.max_epochs=3", "checkpoint.every_n_steps=1", "callbacks.preview=null")
STOP = "+callbacks.stop._target_=tests.runs.interrupted.Stop"
WITHOUT_STOP = "+callbacks.stop=null"


class Stop(pl.Callback):
    """Ends the training before a batch, with an error or, if `number` is given, with that signal."""

    def __init__(self, batch: int = 3, number: int = 0) -> None:
        self.batch = batch
        self.number = number

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.fit_loop.total_batch_idx == self.batch:
            if not self.number:
                raise RuntimeError("something broke")
            os.kill(os.getpid(), self.number)


class SendSignal(pl.Callback):
    """Sends this process a signal in each call of a hook, on one rank or on all."""

    def __init__(self, hook: str, number: int, rank: int | None = None) -> None:
        self.number = number
        self.rank = rank
        setattr(self, hook, self._send)

    def _send(self, trainer: pl.Trainer, *_: object, **__: object) -> None:
        if self.rank in (None, trainer.global_rank):
            os.kill(os.getpid(), self.number)


def interrupt(folder: Path, *overrides: str, batch: int = 3) -> Path:
    """Train until an error ends the run before a batch, and return its folder."""
    with pytest.raises(RuntimeError, match="something broke"):
        finetune.train(*OVERRIDES, f"output={folder}", STOP, f"+callbacks.stop.batch={batch}", *overrides)
    return folder


def copy(run: Path, target: Path) -> Path:
    """Copy a run folder and return the copy."""
    return Path(shutil.copytree(run, target))


def rows(folder: Path) -> list[dict[str, str]]:
    """Return the rows of `metrics.csv` without time and memory."""
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in MEASURED} for row in csv.DictReader(file)]


def same_weights(one: Path, other: Path) -> bool:
    """Return whether the models of two runs have the same weights, bit for bit."""
    states = [load_file(folder / "model" / "model.safetensors") for folder in (one, other)]
    assert states[0]
    assert states[0].keys() == states[1].keys()
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])
