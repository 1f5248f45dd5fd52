"""Evaluations and trainings on 1, 2, 3 and 4 ranks, which run once for all tests that call `results()`."""

import os
import tempfile
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from finetune.callbacks import ApplyTuningPlan, Checkpoint, EarlyStopping, IoU
from finetune.data import CLASS_NAMES, Augment, SampleKey
from finetune.data.dataset import Sample
from finetune.data.module import SegmentationData, collate_by_size
from finetune.metrics.confusion import iou, mean
from finetune.metrics.image_boundaries import ImageBoundaries
from finetune.tasks import SemanticTask
from finetune.tasks.semantic import Batch
from tests.engine.ranks import run_ranks
from tests.synthetic import SyntheticDataset
from tests.tasks.tiny_run import Sizes, tiny_model, tiny_trainer

WORLD_SIZES = (1, 2, 3, 4)
LENGTHS = (1, 2, 3, 5, 8, 9)
BATCH_SIZES = (1, 2, 4)
USUAL = (1, 3, 8)  # lengths that are enough to show Lightning's default
EPOCHS = 8  # at most; early stopping ends the training earlier
Result = dict[str, Any]


class Mixed(Sizes):
    """Validation images with ignored strips of several widths; the fourth is all ignored, and none has a star."""

    def __init__(self, count: int) -> None:
        super().__init__(count, split="val")

    def __getitem__(self, key: int | SampleKey) -> Sample:
        sample = super().__getitem__(key)
        mask, index = sample["mask"], sample["index"]
        mask = mask.masked_fill(mask == 4, 0)
        mask[:, : mask.shape[1] if index == 3 else 3 * index] = 255
        return {**sample, "mask": mask}


def fixed_task(task_class: type[SemanticTask] = SemanticTask) -> SemanticTask:
    """Build a task that never predicts a star; in float64, so that other images in a batch change no digit."""
    task = task_class(tiny_model(seed=1), lr=0.003, schedule_name="constant", warmup=0).double()
    nn.init.constant_(task.model.head[0].bias[-1:], -100)
    return task


def evaluated(trainer: pl.Trainer, task: SemanticTask, **loaders: Any) -> Result:
    """Validate; return what this rank logs, its confusion matrix, and how many numbers each reduction had."""
    distributed = torch.distributed
    with (
        patch.object(distributed, "all_reduce", wraps=distributed.all_reduce) as reduce,
        patch.object(distributed, "all_gather", wraps=distributed.all_gather) as gather,
    ):
        trainer.validate(task, **loaders, verbose=False)
    assert not gather.called
    reduced = [call.args[0].numel() for call in reduce.call_args_list]
    return {"logged": logged(trainer), "matrix": task.total_counts["confusion"], "reduced": reduced}


def logged(trainer: pl.Trainer) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in trainer.callback_metrics.items()}


def evaluations(options: dict[str, Any]) -> dict[tuple[int, int], Result]:
    """Evaluate the fixed model on sets of all lengths, in batches of all sizes."""
    task, trainer = fixed_task(), tiny_trainer(IoU(table=False), **options)
    found = {}
    for length, batch_size in product(LENGTHS, BATCH_SIZES):
        data = SegmentationData(SyntheticDataset(4, 32), Mixed(length), batch_size=batch_size)
        found[length, batch_size] = evaluated(trainer, task, datamodule=data)
    return found


class BatchScores(SemanticTask):
    """Logs means over the batches, as is usual."""

    def validation_step(self, batch: list[Batch], batch_idx: int) -> None:
        before = self.evaluator.matrix
        super().validation_step(batch, batch_idx)
        images = sum(len(group["mask"]) for group in batch)
        scores = {"val/batch_iou": mean(iou(self.evaluator.matrix - before)), "val/one": torch.tensor(1.0)}
        self.log_dict(scores, batch_size=images, sync_dist=True)


def in_float32(options: dict[str, Any]) -> Result:
    data = SegmentationData(SyntheticDataset(4, 32), Mixed(9), batch_size=4)
    return evaluated(tiny_trainer(IoU(table=False), **options), fixed_task().float(), datamodule=data)


def measured(options: dict[str, Any]) -> dict[str, Tensor]:
    """Compare boundaries and objects, and return their sums over all ranks."""
    task, trainer = fixed_task(), tiny_trainer(**options)
    task.measurements = {"boundaries": ImageBoundaries(9, len(CLASS_NAMES), 255)}
    trainer.validate(task, datamodule=SegmentationData(SyntheticDataset(4, 32), Mixed(9), batch_size=2), verbose=False)
    return task.sum_measurements()["boundaries"]


def usual(options: dict[str, Any]) -> dict[int, Result]:
    """Evaluate as Lightning does by default: it pads with repeated images, and averages over batches and ranks."""
    task = fixed_task(BatchScores)
    trainer = tiny_trainer(IoU(table=False), **{**options, "use_distributed_sampler": True})
    found = {}
    for length in USUAL:
        loader = DataLoader(Sizes(length, split="val"), batch_size=2, collate_fn=collate_by_size)
        found[length] = evaluated(trainer, task, dataloaders=loader)
    return found


def unpadded(options: dict[str, Any]) -> Result:
    """Compute the usual scores without padding: 5 images in batches of one, so that each rank has a batch."""
    data = SegmentationData(SyntheticDataset(4, 32), Sizes(5, split="val"), batch_size=1)
    return evaluated(tiny_trainer(IoU(table=False), **options), fixed_task(BatchScores), datamodule=data)


class Notes(pl.Callback):
    """Records what this rank knows after each validation."""

    def __init__(self) -> None:
        self.seen: list[Result] = []

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        state = pl_module.state_dict() if trainer.is_global_zero else {}
        self.seen.append(
            {
                "logged": logged(trainer),
                "matrix": pl_module.total_counts["confusion"],
                "own": pl_module.evaluator.matrix.clone(),
                "stops": trainer.should_stop,
                "state": {name: tensor.clone() for name, tensor in state.items()},
            }
        )


def training(options: dict[str, Any], folder: Path) -> Result:
    """Train with batch norm until early stopping, on ranks whose validation images differ."""
    stopping, checkpoint, notes = EarlyStopping(patience=1), Checkpoint(), Notes()
    options = {**options, "precision": "64-true", "max_epochs": EPOCHS, "enable_checkpointing": True}
    trainer = tiny_trainer(
        ApplyTuningPlan(), IoU(table=False), stopping, notes, checkpoint, **options, default_root_dir=folder
    )
    images = SyntheticDataset(16, 40, transform=Augment(32))
    trainer.fit(fixed_task(), datamodule=SegmentationData(images, Mixed(5), batch_size=2))
    decided = {"stopping": stopping.state_dict(), "epochs": trainer.current_epoch, "best": checkpoint.best}
    return {"seen": notes.seen, "last": logged(trainer), "decided": decided}


def run_all(folder: Path) -> Result:
    """Evaluate and train in every way as one rank, and return what it sees."""
    size = int(os.environ["WORLD_SIZE"])
    options: dict[str, Any] = {"devices": size, "strategy": "ddp"} if size > 1 else {}
    kept: Result = {"evaluations": evaluations(options), "in_float32": in_float32(options)}
    kept |= {"usual": usual(options), "unpadded": unpadded(options), "measured": measured(options)}
    return {**kept, "training": training(options, folder / f"run_{size}")}


@cache
def results() -> dict[int, list[Result]]:
    """Return the results of each rank for each number of ranks."""
    with tempfile.TemporaryDirectory() as folder:
        return {size: run_ranks(run_all, size, Path(folder)) for size in WORLD_SIZES}
