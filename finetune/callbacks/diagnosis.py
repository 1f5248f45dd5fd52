"""The callback that says when a training goes wrong, and what to change."""

import math
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from finetune.data.augmentation.transforms import Augment
from finetune.engine.rank_zero import rank_zero_logger
from finetune.losses.pixel_loss import PixelLoss
from finetune.metrics.symptoms import (
    Validation,
    at_chance,
    chance_iou,
    class_unfound,
    frozen_backbone,
    overfitting,
    rising_loss,
    unfound_classes,
)
from finetune.metrics.widest_float import widest_float
from finetune.tasks import TuningTask, require_task

logger = rank_zero_logger(__name__)
MAX_NAMED_IMAGES = 3


class Diagnosis(pl.Callback):
    """Warns of the symptoms in `metrics/symptoms.py` after a validation, of each once in a run.

    It reads what the validation has counted, so it needs the callback `iou`, and a task that scores IoU.

    Args:
        patience: number of validations that a symptom lasts before it is named.
    """

    def __init__(self, patience: int = 3) -> None:
        if isinstance(patience, bool) or patience < 1:
            raise ValueError(f"Diagnosis has patience={patience}; expected a whole number, 1 or more.")
        self.patience = patience
        self._history: list[Validation] = []
        self._named: set[str] = set()  # symptoms

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Forget an earlier training."""
        if stage == "fit":
            self._history, self._named = [], set()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record the validation, and warn of what it shows. All ranks decide alike, on reduced numbers."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        task = require_task(pl_module, self)
        if (latest := _observe(trainer, task)) is None:
            return
        self._history.append(latest)
        for symptom, message in self._messages(trainer, task).items():
            if message is not None and symptom not in self._named:
                self._named.add(symptom)
                named = _hardest_images(trainer, task) if symptom == "overfitting" else ""
                logger.warning(f"epoch {trainer.current_epoch + 1}: {message}{named}")

    def _messages(self, trainer: pl.Trainer, task: TuningTask) -> dict[str, str | None]:
        history, patience = self._history, self.patience
        is_last = history[-1].progress >= 1
        at_end = min(patience, max(2, len(history))) if is_last else patience  # a short training has few validations
        shares = getattr(trainer.datamodule, "class_shares", {})  # type: ignore[attr-defined]  # set by fit
        backbone = {name for name in task.assigned if name.startswith("backbone.")}
        is_frozen = bool(backbone) and not backbone & task.trainable_at_any_time()
        return {
            "class_unfound": class_unfound(history, at_end, shares, _moves(trainer, task)),
            "overfitting": overfitting(history, patience),
            "at_chance": at_chance(history, at_end, task.lr),
            "frozen_backbone": frozen_backbone(history, patience) if is_frozen else None,
            "rising_loss": rising_loss(history, patience, task.lr),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the validations so far, and the symptoms that were named."""
        return {"history": [tuple(each) for each in self._history], "named": sorted(self._named)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the validations, so that a resumed training says the same as an uninterrupted one."""
        self._history = [Validation(*each) for each in state_dict["history"]]
        self._named = set(state_dict["named"])


def _observe(trainer: pl.Trainer, task: TuningTask) -> Validation | None:
    """Return the numbers of the latest validation; None if they are not there, or not finite."""
    counts, train_loss = task.total_counts, task.train_loss
    if counts is None or train_loss is None or task.non_finite_images:
        return None
    rows, iou = task.evaluator.class_rows(counts), task.evaluator.compute(counts).get("iou")
    if iou is None:
        return None
    shares = [float(row.get("pixel_share", math.nan)) for row in rows]
    chance = chance_iou(shares, exclusive=task.evaluator.confusion_matrix(counts) is not None)
    step, val_loss = trainer.global_step, float(trainer.callback_metrics["val/loss"])
    progress = step / trainer.estimated_stepping_batches
    return Validation(step, progress, float(train_loss), val_loss, iou, chance, unfound_classes(rows))


def _longer(trainer: pl.Trainer, task: TuningTask) -> str:
    """Return a setting for twice the length of the training."""
    in_epochs = trainer.max_steps == -1
    return f"trainer.max_epochs={2 * task.timeline.epochs}" if in_epochs else f"budget={2 * trainer.max_steps}steps"


def _moves(trainer: pl.Trainer, task: TuningTask) -> list[str]:
    """Return what may help a class that is not found: settings that the training has, and a phrase about each."""
    data = getattr(trainer.datamodule, "train", None)  # type: ignore[attr-defined]  # set by fit
    transform = getattr(data, "transform", None)
    crop = getattr(transform, "crop", None)
    geometry = crop if isinstance(crop, Augment) else transform  # of a TrivialAugment
    moves = [f"{_longer(trainer, task)} gives more time"]
    if isinstance(getattr(task, "loss", None), PixelLoss):
        moves.insert(0, "loss.class_weights=median_frequency gives them more weight")
    if isinstance(geometry, Augment) and not geometry.class_crop:
        moves.insert(0, "augment.class_crop=0.5 crops around rare classes")
    if isinstance(geometry, Augment) and geometry.crop is not None:
        moves.append("a larger augment.crop shows more surroundings")
    return moves


def _hardest_images(trainer: pl.Trainer, task: TuningTask) -> str:
    """Return a sentence with the validation images of the highest loss, if the task keeps them. Collective."""
    dtype = widest_float(task.device)
    lowest = torch.tensor([[-math.inf], [-1]], dtype=dtype, device=task.device).expand(2, MAX_NAMED_IMAGES)
    own = [torch.stack([losses.to(dtype), index.to(dtype)]) for index, losses in task.image_losses]
    every: Tensor = trainer.strategy.all_gather(_top(torch.cat([lowest, *own], dim=1)))
    top = _top(torch.cat(list(every.view(-1, 2, MAX_NAMED_IMAGES)), dim=1))
    found = [(loss, int(index)) for loss, index in top.T.tolist() if index >= 0]
    names = getattr(getattr(trainer.datamodule, "val", None), "names", None)  # type: ignore[attr-defined]  # set by fit
    shown = [f"{names[index] if names is not None else f'index {index}'} ({loss:.3f})" for loss, index in found]
    return f" Validation images with the highest loss: {', '.join(shown)}." if shown else ""


def _top(pairs: Tensor) -> Tensor:
    """Return the columns with the highest losses of pairs (2, N) of loss and index."""
    return pairs[:, pairs[0].topk(MAX_NAMED_IMAGES).indices]
