"""Trainings on two ranks, for `test_ddp.py`."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import lightning.pytorch as pl
import torch
from torch.nn.parallel import DistributedDataParallel

import finetune.callbacks.apply_plan as tuning_callback
from finetune.builders.task import assemble_task
from finetune.callbacks import ApplyTuningPlan, IoU
from finetune.config.compose import compose, to_plain_dict
from finetune.data import CLASS_NAMES, SampleKey
from finetune.data.dataset import Sample
from finetune.data.module import SegmentationData
from finetune.engine.ddp import average_statistics, gather_rows
from finetune.losses import LOSSES
from finetune.models import Segmenter
from finetune.tasks import SemanticTask, TuningTask
from tests.synthetic import SyntheticDataset
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


@cache
def settings(preset: str) -> dict[str, Any]:
    """Compose the config of a preset."""
    overrides = PRESETS[preset] or (f"tuning={preset}",)
    return to_plain_dict(compose(*overrides, "optimizer=sgd", "optimizer.lr=0.01", "schedule=cosine"))


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
    """Images with ignored parts of different sizes; the fourth is ignored as a whole."""

    def __getitem__(self, key: int | SampleKey) -> Sample:
        sample = super().__getitem__(key)
        mask = sample["mask"].clone()
        mask[:, : 32 if sample["index"] == 3 else 3 * sample["index"]] = 255
        return {**sample, "mask": mask}


def task(config: Mapping[str, Any], backbone: str = "test_convnext.r160_in1k", loss: str = "ce_dice") -> TuningTask:
    """Build a task without batch norm, which sees one rank's images, and without dropout, which differs by rank."""
    if not SemanticTask.accepts(LOSSES[loss]):
        config = {**config, "task": {"name": "multilabel"}}
    torch.manual_seed(0)
    small = {"pyramid_channels": 32, "segmentation_channels": 64, "dropout": 0.0}
    model = Segmenter(backbone, "fpn", CLASS_NAMES, weights="none", head_options=small, lora=config["tuning"]["lora"])
    weights = torch.linspace(0.5, 2, len(CLASS_NAMES))
    return assemble_task(config, model, LOSSES[loss](class_weights=weights, **LOSS_OPTIONS[loss]), 255)


def data(ranks: int) -> SegmentationData:
    """Build data whose batches hold the same images over all ranks together."""
    return SegmentationData(Uneven(8, 32, 0), SyntheticDataset(3, 32, 0, "val"), batch_size=4 // ranks)


class Reduced(pl.Callback):
    """Records in each epoch how many bytes DDP reduces, and how many the trainable parameters have."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        if trainer.is_last_batch and isinstance(trainer.strategy.model, DistributedDataParallel):
            logged = trainer.strategy.model._get_ddp_logging_data()
            trains = sum(p.nbytes for p in pl_module.parameters() if p.requires_grad)
            self.seen.append((int(logged["total_parameter_size_bytes"]), trains))


class Statistics(pl.Callback):
    """Records the batch statistics of the first batch norm in each step, and all statistics at every validation."""

    def __init__(self) -> None:
        self.met: list[torch.Tensor] = []
        self.validated: list[dict[str, torch.Tensor]] = []

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        pl_module.model.get_submodule(FIRST_NORM).register_forward_pre_hook(self._record)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        buffers = pl_module.model.named_buffers()
        self.validated.append({name: buffer.clone() for name, buffer in buffers if "running" in name})

    def _record(self, norm: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        if norm.training:
            values = inputs[0].detach().movedim(1, 0).flatten(1)
            self.met.append(torch.stack([values.mean(1), values.var(1)]))


def fit(made: TuningTask, ranks: int, *callbacks: pl.Callback, max_epochs: int = EPOCHS) -> dict[str, torch.Tensor]:
    options: dict[str, Any] = {"devices": ranks, "strategy": "ddp"} if ranks > 1 else {}
    options["precision"] = "64-true"  # half a batch is summed in another order, and rounding would hide small mistakes
    tiny_trainer(ApplyTuningPlan(), IoU(table=False), *callbacks, max_epochs=max_epochs, **options).fit(
        made, datamodule=data(ranks)
    )
    return {name: tensor.clone() for name, tensor in made.model.state_dict().items()}


def without_wrapping(action: Callable[[], Any], check: bool) -> Any:
    """Unfreeze without wrapping again, which DDP does not notice; return the error message if it is detected."""
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


def train_presets(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Train with the config of every preset, and return what each ends with."""
    kept = {}
    for preset, config in configs.items():
        reduced = Reduced()
        kept[preset] = {"state": fit(task(config), 2, reduced), "reduced": reduced.seen}
    return kept


def train_losses(config: Mapping[str, Any]) -> dict[str, Any]:
    """Train one epoch with every loss, and return the weights."""
    return {loss: fit(task(config, loss=loss), 2, max_epochs=1) for loss in LOSS_OPTIONS}


def train_batch_norm(config: Mapping[str, Any]) -> dict[str, Any]:
    """Train a model with batch norm, and return its statistics on this rank."""
    statistics = Statistics()
    fit(task(config, "test_resnet.r160_in1k"), 2, statistics)
    return {"met": statistics.met, "validated": statistics.validated}


def unfreeze_without_wrapping(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the weights of this rank after the mistake, and the message if it is checked for."""
    return {
        "diverged": without_wrapping(lambda: fit(task(config), 2), check=False),
        "noticed": without_wrapping(lambda: fit(task(config), 2), check=True),
    }


def averaged_statistics() -> list[dict[str, torch.Tensor]]:
    """Return different statistics on each rank before and after averaging, in float32 and float64."""
    torch.distributed.init_process_group("gloo")
    trainer, results = tiny_trainer(devices=int(os.environ["WORLD_SIZE"]), strategy="ddp"), []
    for dtype in (torch.float32, torch.float64):
        norm = torch.nn.BatchNorm1d(999, dtype=dtype)
        generator = torch.Generator().manual_seed(trainer.global_rank)
        torch.nn.init.normal_(norm.running_mean, generator=generator)
        torch.nn.init.uniform_(norm.running_var, generator=generator)
        own = torch.cat([norm.running_mean, norm.running_var])
        average_statistics(trainer, [norm])
        results.append({"own": own, "averaged": torch.cat([norm.running_mean, norm.running_var])})
    return results


def gathered_rows(lengths: Sequence[int]) -> dict[str, torch.Tensor]:
    """Return rows of this rank, of which there are as many as given, and those of all ranks."""
    torch.distributed.init_process_group("gloo")
    trainer = tiny_trainer(devices=len(lengths), strategy="ddp")
    rank = trainer.global_rank
    own = torch.arange(3 * lengths[rank]).view(-1, 3) + 2**40 * (rank + 1)  # float32 would round
    return {"own": own, "all": gather_rows(trainer, own)}
