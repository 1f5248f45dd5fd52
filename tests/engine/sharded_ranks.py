"""Trainings of sharded models on two ranks, for `test_fsdp.py`."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import distributed

from finetune.builders.task import assemble_task
from finetune.callbacks import ApplyTuningPlan, Checkpoint, IoU, Preview
from finetune.checkpoints.checkpoint_io import CheckpointFiles
from finetune.config.compose import compose, to_plain_dict
from finetune.data import CLASS_NAMES, Augment
from finetune.data.module import SegmentationData
from finetune.engine.fsdp import full_model, local_shard
from finetune.engine.fsdp_strategy import FullySharded
from finetune.losses import CrossEntropy
from finetune.models import Segmenter
from finetune.tasks import SemanticTask
from tests.engine import ddp_ranks
from tests.synthetic import SyntheticDataset
from tests.tasks.tiny_run import tiny_trainer

GRADUAL = ("tuning=gradual", "optimizer=adamw", "optimizer.lr=0.001", "schedule=cosine")
# clipped by the norm of the whole gradient, over two batches, with penalties on whole weights
LIMITED = ("tuning=head_then_full", "tuning.l1=0.01", "tuning.l2_sp=10", "optimizer=sgd", "optimizer.lr=0.1")
CLIPPED = {"gradient_clip_val": 0.5, "accumulate_grad_batches": 2}


def task(*overrides: str, backbone: str = "test_convnext.r160_in1k", seed: int = 0) -> SemanticTask:
    """Build a task in float64, so that rounding hides no mistake; Lightning's strategy does not take 64-true."""
    config = to_plain_dict(compose(*overrides))
    torch.manual_seed(seed)
    small = {"pyramid_channels": 32, "segmentation_channels": 64, "dropout": 0.0}  # each rank drops its own
    model = Segmenter(backbone, "fpn", CLASS_NAMES, weights="none", head_options=small)
    return assemble_task(config, model, CrossEntropy(), 255).double()


def fit(made: SemanticTask, ranks: int, *callbacks: pl.Callback, **options: Any) -> dict[str, torch.Tensor]:
    """Return the full weights after a training on so many ranks."""
    data, resume = options.pop("data", ddp_ranks.data(ranks)), options.pop("resume", None)
    options |= {"devices": ranks, "strategy": FullySharded()} if ranks > 1 else {}
    trainer = tiny_trainer(
        ApplyTuningPlan(), IoU(table=False), *callbacks, **{"max_epochs": ddp_ranks.EPOCHS, **options}
    )
    trainer.fit(made, datamodule=data, ckpt_path=resume, weights_only=True)
    return {name: tensor.clone() for name, tensor in full_model(made.model).state_dict().items()}


class Moved(pl.Callback):
    """Records in each epoch which parameters train, and of which this rank's shard changes."""

    def __init__(self) -> None:
        self.seen: list[dict[str, list[str]]] = []
        self._before: dict[str, torch.Tensor] = {}

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._before = {name: local_shard(p).detach().clone() for name, p in pl_module.model.named_parameters()}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        after = {name: local_shard(p).detach() for name, p in pl_module.model.named_parameters()}
        moved = [name for name, tensor in after.items() if not torch.equal(tensor, self._before[name])]
        self.seen.append({"train": list(pl_module.trainable()), "moved": moved})


def preset(name: str) -> dict[str, Any]:
    """Train a preset; return its weights, what changed in each epoch, and the elements of this rank and of all."""
    made, moved = ddp_ranks.task(ddp_ranks.settings(name)).double(), Moved()
    state = fit(made, 2, moved)
    tunable = [parameter for name, parameter in made.model.named_parameters() if name in made.places]
    held = [sum(local_shard(p).numel() for p in tunable), sum(p.numel() for p in tunable)]
    return {"state": state, "moved": moved.seen, "held": held}


def limited(folder: Path) -> dict[str, torch.Tensor]:
    return fit(task(*LIMITED), 2, **CLIPPED)


def uneven(folder: Path) -> dict[str, torch.Tensor]:
    """Train where rank 1 has no validation image, rank 0 predicts alone, and both also validate inside epochs."""
    data = SegmentationData(SyntheticDataset(8, 32, 0), SyntheticDataset(1, 32, 0, "val"), batch_size=2)
    saving = {"enable_checkpointing": True, "default_root_dir": folder / "uneven"}
    return fit(task(*GRADUAL), 2, Preview(1), Checkpoint(), data=data, val_check_interval=0.5, **saving)


class Stop(pl.Callback):
    """Ends a training after its second epoch, when the lowest layers are still frozen."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        trainer.should_stop = trainer.current_epoch == 1


def stopped(folder: Path, ranks: int) -> Path:
    """Return the checkpoint of a training that was stopped."""
    home = folder / f"stopped_{ranks}"
    fit(task(*GRADUAL), ranks, Stop(), Checkpoint(), enable_checkpointing=True, default_root_dir=home)
    return home / "checkpoints" / "last.ckpt"


def resumed(folder: Path) -> dict[str, torch.Tensor]:
    return fit(task(*GRADUAL), 2, resume=stopped(folder, 2))


class Cut(Exception):
    """Ends a training inside an epoch."""


class CutOff(pl.Callback):
    """Ends a training in its second epoch, after two of its four batches, as an error would."""

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.fit_loop.total_batch_idx == 6:
            raise Cut


def fit_inside(home: Path, workers: int, *callbacks: pl.Callback, **options: Any) -> dict[str, torch.Tensor]:
    """Return the weights after a training that saves every step, with other augmentations in each epoch."""
    images = SyntheticDataset(17, 40, 0, transform=Augment(32, rotation=10))
    data = SegmentationData(images, SyntheticDataset(3, 32, 0, "val"), batch_size=2, num_workers=workers)
    saving = {"enable_checkpointing": True, "plugins": CheckpointFiles(), "default_root_dir": home, "max_epochs": 3}
    return fit(task(*GRADUAL), 2, *callbacks, Checkpoint(every_n_steps=1), data=data, **saving, **options)


def inside(folder: Path) -> dict[str, Any]:
    """Resume a training that was cut off inside an epoch, without and with loading workers."""
    ends: dict[str, Any] = {"whole": fit_inside(folder / "inside_whole", 0)}
    for workers in (0, 2):
        home = folder / f"inside_{workers}"
        with suppress(Cut):
            fit_inside(home, workers, CutOff())
        distributed.barrier()  # rank 0 has written the last file once its training has ended
        last = home / "checkpoints" / "last.ckpt"
        place = torch.load(last, weights_only=True)["SegmentationData"]
        ends[f"{workers} workers"] = {"place": place, "end": fit_inside(home, workers, resume=last)}
    return ends


class Begun(pl.Callback):
    """Keeps the weights with which a training starts."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.state = {name: tensor.clone() for name, tensor in full_model(pl_module.model).state_dict().items()}


def apart(folder: Path) -> dict[str, Any]:
    """Train ranks that start with different weights, and whose batch norms see different images."""
    begun = Begun()
    made = task("tuning=head_then_full", backbone="test_resnet.r160_in1k", seed=int(os.environ["RANK"]))
    return {"end": fit(made, 2, begun), "begin": begun.state}


JOBS = {"limited": limited, "uneven": uneven, "resumed": resumed, "inside": inside, "apart": apart}


def run_jobs(folder: Path, *jobs: str) -> dict[str, Any]:
    """Run jobs, each of which is a preset or one of `JOBS`, and return their results by name."""
    return {job: JOBS[job](folder) if job in JOBS else preset(job) for job in jobs}
