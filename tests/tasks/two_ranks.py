"""Trains every preset as one of two ranks, and keeps what each ends with: `python -m tests.tasks.two_ranks FOLDER`.

Started twice by `test_ranks.py`, with the variables that torchrun sets.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch.nn.parallel import DistributedDataParallel

import finetune.callbacks.apply_plan as tuning_callback
from finetune.builders.task import assemble_task
from finetune.callbacks import ApplyTuningPlan, IoU
from finetune.config.compose import compose, to_plain_dict
from finetune.data import CLASS_NAMES, SampleKey, SyntheticDataset
from finetune.data.dataset import Sample
from finetune.data.module import SegmentationData
from finetune.losses import LOSSES
from finetune.models import Segmenter
from finetune.tasks import SemanticTask, TuningTask
from tests.tasks.tiny_run import tiny_trainer

EPOCHS = 4
FIRST_NORM = "backbone.model.bn1"
PRESETS = {
    "full": (),
    "frozen": (),
    "head_then_full": (),
    "partial": (),
    "gradual": (),
    "discriminative": (),
    "layer_decay": (),
    "norm_only": (),
    "lora": (),
    "gradual_layer_decay": ("tuning=gradual", "tuning.layers=blocks", "tuning.layer_lr_decay=0.9"),
    "freeze_again": ("tuning=full", "tuning.rules=[{match: backbone, train: [[0, 1], [2, null]]}, {match: .}]"),
}


def settings(preset: str) -> dict[str, Any]:
    words = PRESETS[preset] or (f"tuning={preset}",)
    return to_plain_dict(compose(*words, "optimizer=sgd", "optimizer.lr=0.01", "schedule=cosine"))


LOSS_OPTIONS: dict[str, dict[str, float]] = {
    "cross_entropy": {"label_smoothing": 0.1},
    "dice": {},
    "focal": {},
    "sigmoid_focal_dice": {},
    "ce_dice": {"label_smoothing": 0.1},
    "bce": {},
    "bce_dice": {},
    "sigmoid_focal": {},
}


class Uneven(SyntheticDataset):
    """Pictures of which unequal parts do not count, and of one nothing."""

    def __getitem__(self, key: int | SampleKey) -> Sample:
        sample = super().__getitem__(key)
        mask = sample["mask"].clone()
        mask[:, : 32 if sample["index"] == 3 else 3 * sample["index"]] = 255
        return {**sample, "mask": mask}


def task(preset: str, backbone: str = "test_convnext.r160_in1k", loss: str = "ce_dice") -> TuningTask:
    """Without batch norm, which sees the images of a rank alone, and without dropout, which each rank draws itself."""
    config = settings(preset)
    if not SemanticTask.accepts(LOSSES[loss]):
        config["task"] = {"name": "multilabel"}
    torch.manual_seed(0)
    small = {"pyramid_channels": 32, "segmentation_channels": 64, "dropout": 0.0}
    model = Segmenter(backbone, "fpn", CLASS_NAMES, weights="none", head_options=small, lora=config["tuning"]["lora"])
    weights = torch.linspace(0.5, 2, len(CLASS_NAMES))
    return assemble_task(config, model, LOSSES[loss](class_weights=weights, **LOSS_OPTIONS[loss]), 255)


def data(ranks: int) -> SegmentationData:
    """Batches that hold the same images over all ranks together."""
    return SegmentationData(Uneven(8, 32, 0), SyntheticDataset(3, 32, 0, "val"), batch_size=4 // ranks)


class Reduced(pl.Callback):
    """Notes in each epoch how many bytes DDP reduces, and how many the trainable parameters have."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        if trainer.is_last_batch and isinstance(trainer.strategy.model, DistributedDataParallel):
            logged = trainer.strategy.model._get_ddp_logging_data()
            trains = sum(p.nbytes for p in pl_module.parameters() if p.requires_grad)
            self.seen.append((int(logged["total_parameter_size_bytes"]), trains))


class Statistics(pl.Callback):
    """Keeps what the first batch norm meets on this rank in each step, and all statistics at every validation."""

    def __init__(self) -> None:
        self.met: list[torch.Tensor] = []
        self.validated: list[dict[str, torch.Tensor]] = []

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        pl_module.model.get_submodule(FIRST_NORM).register_forward_pre_hook(self._meet)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        buffers = pl_module.model.named_buffers()
        self.validated.append({name: buffer.clone() for name, buffer in buffers if "running" in name})

    def _meet(self, norm: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        if norm.training:
            values = inputs[0].detach().movedim(1, 0).flatten(1)
            self.met.append(torch.stack([values.mean(1), values.var(1)]))


def fit(made: TuningTask, ranks: int, *callbacks: pl.Callback) -> dict[str, torch.Tensor]:
    options: dict[str, Any] = {"devices": ranks, "strategy": "ddp"} if ranks > 1 else {}
    options["precision"] = "64-true"  # or rounding would hide small mistakes: half a batch is summed in another order
    tiny_trainer(ApplyTuningPlan(), IoU(table=False), *callbacks, max_epochs=EPOCHS, **options).fit(
        made, datamodule=data(ranks)
    )
    return {name: tensor.clone() for name, tensor in made.model.state_dict().items()}


def without_wrapping(action: Callable[[], Any], check: bool) -> Any:
    """The mistake of freezing before DDP wraps the model and unfreezing later."""
    kept = tuning_callback.wrap_again, tuning_callback.check_ranks_agree
    tuning_callback.wrap_again = lambda trainer: None
    if not check:
        tuning_callback.check_ranks_agree = lambda trainer, model: None
    try:
        return action()
    except RuntimeError as error:
        return str(error)
    finally:
        tuning_callback.wrap_again, tuning_callback.check_ranks_agree = kept


def main(folder: Path, rank: int) -> None:
    torch.set_num_threads(1)
    kept: dict[str, Any] = {}
    for preset in PRESETS:
        reduced = Reduced()
        kept[preset] = {"state": fit(task(preset), 2, reduced), "reduced": reduced.seen}
    statistics = Statistics()
    fit(task("head_then_full", "test_resnet.r160_in1k"), 2, statistics)
    kept["batch_norm"] = {"met": statistics.met, "validated": statistics.validated}
    for loss in LOSS_OPTIONS:
        kept[loss] = fit(task("full", loss=loss), 2)
    kept["diverged"] = without_wrapping(lambda: fit(task("gradual"), 2), check=False)
    kept["noticed"] = without_wrapping(lambda: fit(task("gradual"), 2), check=True)
    torch.save(kept, folder / f"rank_{rank}.pt")


if __name__ == "__main__":
    import os

    main(Path(sys.argv[1]), int(os.environ["RANK"]))
