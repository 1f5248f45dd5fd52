"""What is summed after an evaluation, when Lightning has moved the task to the CPU."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import cast

import lightning.pytorch as pl
import torch
from torch import Tensor

from finetune.metrics.measurement import Measurement
from tests.tasks.tiny_run import tiny_data, tiny_task, tiny_trainer


class Elsewhere:
    """A strategy whose device is not that of the task, as NCCL sums on GPUs only."""

    root_device = torch.device("meta")

    def __init__(self) -> None:
        self.devices: list[str] = []

    def reduce(self, tensor: Tensor, reduce_op: str) -> Tensor:
        self.devices.append(tensor.device.type)
        return torch.zeros(tensor.shape, dtype=tensor.dtype)


def test_sums_over_ranks_are_made_on_the_device_of_the_trainer() -> None:
    task, strategy = tiny_task(), Elsewhere()
    trainer = SimpleNamespace(strategy=strategy, world_size=2)
    task.trainer = cast(pl.Trainer, trainer)
    sums: Mapping[str, Tensor] = {"counts": torch.ones(3)}
    task.measurements = {"pixels": cast(Measurement, SimpleNamespace(sums=lambda: sums))}
    task.sum_measurements()
    task.sum_counts()
    assert strategy.devices == ["meta", "meta"]


def test_the_root_device_is_that_of_the_trainer_and_without_one_that_of_the_task() -> None:
    task = tiny_task()
    assert task.root_device == task.device
    trainer = tiny_trainer()
    trainer.validate(task, datamodule=tiny_data(), verbose=False)
    assert task.root_device == trainer.strategy.root_device
