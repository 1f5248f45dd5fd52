"""Evaluates and trains as 1, 2, 3 and 4 ranks, and keeps what each sees: `python -m tests.engine.many_ranks FOLDER`.

Run once for all tests that ask for its `results()`. It imports what is slow to import, and forks every rank from there.
"""

import os
import socket
import subprocess
import sys
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
from finetune.data import Augment, SampleKey, SyntheticDataset
from finetune.data.dataset import Sample
from finetune.data.module import SegmentationData, collate_by_size
from finetune.engine.ddp import average_statistics
from finetune.metrics.confusion import iou, mean
from finetune.tasks import SemanticTask
from finetune.tasks.semantic import Batch
from tests.tasks.tiny_run import Sizes, tiny_model, tiny_trainer

WORLD_SIZES = (1, 2, 3, 4)
LENGTHS = (1, 2, 3, 5, 8, 9)
BATCH_SIZES = (1, 2, 4)
USUAL = (1, 3, 8)  # lengths that are enough to show what Lightning does by itself
EPOCHS = 8  # at most: early stopping ends the training before
Result = dict[str, Any]


class Mixed(Sizes):
    """Validation pictures with ignored strips of several widths; the fourth has nothing else, and none has a star."""

    def __init__(self, count: int) -> None:
        super().__init__(count, split="val")

    def __getitem__(self, key: int | SampleKey) -> Sample:
        sample = super().__getitem__(key)
        mask, index = sample["mask"], sample["index"]
        mask = mask.masked_fill(mask == 4, 0)
        mask[:, : mask.shape[1] if index == 3 else 3 * index] = 255
        return {**sample, "mask": mask}


def fixed_task(kind: type[SemanticTask] = SemanticTask) -> SemanticTask:
    """Random weights that never predict a star; in float64, so that other images in a batch change no digit."""
    task = kind(tiny_model(seed=1), lr=0.003, schedule_name="constant", warmup=0).double()
    nn.init.constant_(task.model.head[0].bias[-1:], -100)
    return task


def evaluated(trainer: pl.Trainer, counter: IoU, task: SemanticTask, **loaders: Any) -> Result:
    """What this rank logs in a validation, its confusion matrix, and how many numbers each reduction had."""
    distributed = torch.distributed
    with (
        patch.object(distributed, "all_reduce", wraps=distributed.all_reduce) as reduce,
        patch.object(distributed, "all_gather", wraps=distributed.all_gather) as gather,
    ):
        trainer.validate(task, **loaders, verbose=False)
    assert not gather.called
    reduced = [call.args[0].numel() for call in reduce.call_args_list]
    return {"logged": logged(trainer), "matrix": counter.counts["confusion"], "reduced": reduced}


def logged(trainer: pl.Trainer) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in trainer.callback_metrics.items()}


def evaluations(options: dict[str, Any]) -> dict[tuple[int, int], Result]:
    """The fixed model on sets of all lengths, in batches of all sizes."""
    counter, task = IoU(table=False), fixed_task()
    trainer = tiny_trainer(counter, **options)
    found = {}
    for length, batch_size in product(LENGTHS, BATCH_SIZES):
        data = SegmentationData(SyntheticDataset(4, 32), Mixed(length), batch_size=batch_size)
        found[length, batch_size] = evaluated(trainer, counter, task, datamodule=data)
    return found


class BatchScores(SemanticTask):
    """Logs means of what every batch has by itself, as is usual."""

    def validation_step(self, batch: list[Batch], batch_idx: int) -> None:
        before = self.evaluator.matrix
        super().validation_step(batch, batch_idx)
        images = sum(len(group["mask"]) for group in batch)
        scores = {"val/batch_iou": mean(iou(self.evaluator.matrix - before)), "val/one": torch.tensor(1.0)}
        self.log_dict(scores, batch_size=images, sync_dist=True)


def in_float32(options: dict[str, Any]) -> Result:
    counter = IoU(table=False)
    data = SegmentationData(SyntheticDataset(4, 32), Mixed(9), batch_size=4)
    return evaluated(tiny_trainer(counter, **options), counter, fixed_task().float(), datamodule=data)


def usual(options: dict[str, Any]) -> dict[int, Result]:
    """What Lightning does by itself: it pads with repeats, and averages over batches and ranks."""
    counter, task = IoU(table=False), fixed_task(BatchScores)
    trainer = tiny_trainer(counter, **{**options, "use_distributed_sampler": True})
    found = {}
    for length in USUAL:
        loader = DataLoader(Sizes(length, split="val"), batch_size=2, collate_fn=collate_by_size)
        found[length] = evaluated(trainer, counter, task, dataloaders=loader)
    return found


def unpadded(options: dict[str, Any]) -> Result:
    """The usual scores without the padding: 5 images, one a batch, so that no rank is without."""
    counter = IoU(table=False)
    data = SegmentationData(SyntheticDataset(4, 32), Sizes(5, split="val"), batch_size=1)
    return evaluated(tiny_trainer(counter, **options), counter, fixed_task(BatchScores), datamodule=data)


class Notes(pl.Callback):
    """Keeps of each validation what this rank knows then."""

    def __init__(self, counter: IoU) -> None:
        self.counter = counter
        self.seen: list[Result] = []

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        state = pl_module.state_dict() if trainer.is_global_zero else {}
        self.seen.append(
            {
                "logged": logged(trainer),
                "matrix": self.counter.counts["confusion"],
                "own": pl_module.evaluator.matrix.clone(),
                "stops": trainer.should_stop,
                "state": {name: tensor.clone() for name, tensor in state.items()},
            }
        )


def training(options: dict[str, Any], folder: Path) -> Result:
    """A training with batch norm that stops early, on ranks whose validation images differ."""
    counter, stopping, checkpoint = IoU(table=False), EarlyStopping(patience=1), Checkpoint()
    notes = Notes(counter)
    options = {**options, "precision": "64-true", "max_epochs": EPOCHS, "enable_checkpointing": True}
    trainer = tiny_trainer(ApplyTuningPlan(), counter, stopping, notes, checkpoint, **options, default_root_dir=folder)
    pictures = SyntheticDataset(16, 40, transform=Augment(32))
    trainer.fit(fixed_task(), datamodule=SegmentationData(pictures, Mixed(5), batch_size=2))
    decided = {"stopping": stopping.state_dict(), "epochs": trainer.current_epoch, "best": checkpoint.best}
    return {"seen": notes.seen, "last": logged(trainer), "decided": decided}


def averaged(trainer: pl.Trainer, dtype: torch.dtype) -> dict[str, Tensor]:
    """Statistics of each rank's own, before and after they were averaged."""
    norm = nn.BatchNorm1d(999, dtype=dtype)
    generator = torch.Generator().manual_seed(trainer.global_rank)
    nn.init.normal_(norm.running_mean, generator=generator)
    nn.init.uniform_(norm.running_var, generator=generator)
    own = torch.cat([norm.running_mean, norm.running_var])
    average_statistics(trainer, [norm])
    return {"own": own, "averaged": torch.cat([norm.running_mean, norm.running_var])}


def run_rank(rank: int, world_size: int, port: int, folder: Path) -> None:
    """Do everything as one rank, with the variables that torchrun sets."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
    os.environ.update({name: str(number) for name, number in {**numbers, "GROUP_RANK": 0, "MASTER_PORT": port}.items()})
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "test"})
    options: dict[str, Any] = {"devices": world_size, "strategy": "ddp"} if world_size > 1 else {}
    kept: Result = {"evaluations": evaluations(options), "in_float32": in_float32(options)}
    kept |= {"usual": usual(options), "unpadded": unpadded(options)}
    kept["training"] = training(options, folder / f"run_{world_size}")
    trainer = tiny_trainer(**options)
    kept["averaged"] = [averaged(trainer, dtype) for dtype in (torch.float32, torch.float64)]
    torch.save(kept, folder / f"rank_{rank}_of_{world_size}.pt")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@cache
def results() -> dict[int, list[Result]]:
    """What each rank of each world size kept."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "tests.engine.many_ranks", folder],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return {
            size: [torch.load(Path(folder) / f"rank_{rank}_of_{size}.pt", weights_only=True) for rank in range(size)]
            for size in WORLD_SIZES
        }


if __name__ == "__main__":
    torch.set_num_threads(1)
    for size in WORLD_SIZES:
        torch.multiprocessing.start_processes(
            run_rank, args=(size, free_port(), Path(sys.argv[1])), nprocs=size, start_method="fork"
        )
