"""Trainings on two ranks with a bad step on the second one only, for `test_non_finite_guard.py`."""

from typing import Any

import lightning.pytorch as pl
import torch

from finetune.callbacks import ApplyTuningPlan, NonFiniteError, NonFiniteGuard
from finetune.engine.fsdp import local_shard
from finetune.engine.fsdp_strategy import FullySharded
from tests.callbacks.test_non_finite_guard import Breaks, breaking_task
from tests.tasks.tiny_run import tiny_data, tiny_trainer


class BreaksOnSecond(Breaks):
    """A task whose batches are bad on the second rank only."""

    def is_bad(self, batch_idx: int) -> bool:
        return super().is_bad(batch_idx) and self.global_rank == 1


class Moved(pl.Callback):
    """Records for each step whether it has changed this rank's weights."""

    def __init__(self) -> None:
        self.seen: list[bool] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        self.before = [local_shard(p).detach().clone() for p in pl_module.parameters()]

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        now = [local_shard(p).detach() for p in pl_module.parameters()]
        self.seen.append(not all(map(torch.equal, self.before, now)))


def fit(strategy: str, mistake: str, skip: int) -> dict[str, Any]:
    """Train; return the error message if there is one, which steps changed the weights, and the weights."""
    moved, task = Moved(), breaking_task(mistake, at=(1,), task=BreaksOnSecond)
    strategies: Any = FullySharded() if strategy == "fsdp2" else strategy
    trainer = tiny_trainer(
        ApplyTuningPlan(), NonFiniteGuard(skip), moved, devices=2, strategy=strategies, limit_val_batches=0
    )
    message = ""
    try:
        trainer.fit(task, datamodule=tiny_data(train=12, batch_size=2))
    except NonFiniteError as error:
        message = str(error)
    state = {} if strategy == "fsdp2" else {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
    return {"message": message, "moved": moved.seen, "state": state}


CASES = (
    ("ddp", "constant", 0),
    ("ddp", "gradient", 0),
    ("ddp", "input", 0),
    ("ddp", "constant", 1),
    ("fsdp2", "constant", 0),
    ("fsdp2", "gradient", 1),
)


def run_cases() -> dict[str, dict[str, Any]]:
    """Return the results of all cases by name."""
    return {"/".join(map(str, case)): fit(*case) for case in CASES}
