"""Trains as one of two ranks with a bad step on the second alone: `python -m tests.callbacks.guarded_ranks FOLDER`.

Started twice by `test_guard.py`, with the variables that torchrun sets.
"""

import os
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from finetune.callbacks import ApplyTuningPlan, NonFiniteError, NonFiniteGuard
from finetune.engine.fsdp import local_shard
from finetune.engine.fsdp_strategy import FullySharded
from tests.callbacks.test_non_finite_guard import Breaks, breaking_task
from tests.tasks.tiny_run import tiny_data, tiny_trainer


class BreaksOnSecond(Breaks):
    """Only the second rank meets what is wrong."""

    def goes_wrong(self, batch_idx: int) -> bool:
        return super().goes_wrong(batch_idx) and self.global_rank == 1


class Moved(pl.Callback):
    """Notes of each step whether it has moved this rank's weights."""

    def __init__(self) -> None:
        self.seen: list[bool] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        self.before = [local_shard(p).detach().clone() for p in pl_module.parameters()]

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        now = [local_shard(p).detach() for p in pl_module.parameters()]
        self.seen.append(not all(map(torch.equal, self.before, now)))


def fit(strategy: str, kind: str, skip: int) -> dict[str, Any]:
    """The message if it stops, which steps moved the weights, and the weights."""
    moved, task = Moved(), breaking_task(kind, at=(1,), task=BreaksOnSecond)
    strategies: Any = FullySharded() if strategy == "fsdp2" else strategy
    trainer = tiny_trainer(
        ApplyTuningPlan(), NonFiniteGuard(skip), moved, devices=2, strategy=strategies, limit_val_batches=0
    )
    said = ""
    try:
        trainer.fit(task, datamodule=tiny_data(train=12, batch_size=2))
    except NonFiniteError as error:
        said = str(error)
    state = {} if strategy == "fsdp2" else {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
    return {"said": said, "moved": moved.seen, "state": state}


def main(folder: Path, rank: int) -> None:
    torch.set_num_threads(1)
    cases = [("ddp", "constant", 0), ("ddp", "gradient", 0), ("ddp", "input", 0), ("ddp", "constant", 1)]
    cases += [("fsdp2", "constant", 0), ("fsdp2", "gradient", 1)]
    torch.save({"/".join(map(str, case)): fit(*case) for case in cases}, folder / f"rank_{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(os.environ["RANK"]))
