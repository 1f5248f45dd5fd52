"""Semantic segmentation: every pixel has exactly one class."""

from typing import Any

import torch
from torch import Tensor

from finetune.engine.ddp import sum_over_ranks
from finetune.engine.lightning_private import attached_trainer
from finetune.engine.loop_state import ends_epoch
from finetune.losses import Reduce, SegmentationLoss, no_reduction
from finetune.metrics.confusion import ConfusionMatrix
from finetune.models import Segmenter
from finetune.tasks.base import TuningTask

Batch = dict[str, Tensor]


class SemanticTask(TuningTask):
    """Trains a model with a pixel loss and counts what it gets right.

    Losses are sums and counts and scores are one matrix, so both are the same on any number of devices; up to rounding,
    which the other images of a batch change, for any batch size.

    Attributes:
        train_loss: mean over the images of the epoch up to its last batch or latest validation, of all ranks.

    Args:
        model: what is trained.
        loss: of logits (B, K, H, W) and classes (B, H, W).
        ignore_index: label of pixels that count for nothing.
        options: further arguments of `TuningTask`.
    """

    def __init__(
        self, model: Segmenter, loss: SegmentationLoss | None = None, ignore_index: int = 255, **options: Any
    ) -> None:
        super().__init__(model, **options)
        self.loss = loss or SegmentationLoss(ignore_index=ignore_index)
        self.ignore_index = ignore_index
        self.confusion = ConfusionMatrix(model.classes, ignore_index)
        self.train_loss: Tensor | None = None
        self._train_loss = LossMean()
        self._eval_loss = LossMean()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of a batch of `image` (B, C, H, W), uint8, and `mask` (B, H, W), uint8, together with other ranks'."""
        self.local_loss_sums = []
        loss, auxiliary = self.losses(batch["image"], batch["mask"], self._over_ranks)
        counted = (batch["mask"] != self.ignore_index).flatten(1).any(dim=1).sum()
        # a step that is left out, because its loss is not finite, leaves the epoch's mean alone
        self._train_loss.add(loss.detach().nan_to_num(0, 0, 0), counted * loss.isfinite())
        return loss + auxiliary + self.penalty()

    def losses(self, images: Tensor, masks: Tensor, reduce: Reduce = no_reduction) -> tuple[Tensor, Tensor]:
        """The loss of the logits, and that of what a head learns from besides, weighed; 0 for most heads.

        Args:
            images: (B, C, H, W), uint8.
            masks: (B, H, W), of any integer type.
            reduce: adds up sums over all devices.
        """
        logits, *others = self.model(self.model.normalize(images), auxiliary=True)
        auxiliary = [self.loss.auxiliary_weight * self.loss(scores, masks, reduce) for scores in others]
        return self.loss(logits, masks, reduce), sum(auxiliary, logits.new_zeros(()))

    def _over_ranks(self, sums: Tensor) -> Tensor:
        self.local_loss_sums.append(sums.detach())
        trainer = attached_trainer(self)
        return sum_over_ranks(trainer, sums) if trainer is not None else sums

    def on_train_epoch_start(self) -> None:
        """Begin to count the epoch's loss."""
        self._train_loss = LossMean()

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Settle the epoch's loss with its last batch."""
        if ends_epoch(self.trainer):
            self.train_loss = self._reduced(self._train_loss)

    def on_validation_start(self) -> None:
        """Settle the loss so far: it is there when the validation reports, and the epoch's if that ends behind it."""
        if self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            self.train_loss = self._reduced(self._train_loss)

    def on_train_epoch_end(self) -> None:
        """Log the epoch's loss, the mean over all images of all ranks."""
        if self.train_loss is not None:
            self.log("train/loss", self.train_loss)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the loss of the epoch so far, of each rank by itself: sums in another order would round differently."""
        super().on_save_checkpoint(checkpoint)
        sums = self.all_gather(self._train_loss.state(self.device))
        assert isinstance(sums, Tensor)
        checkpoint["train_loss"] = {"sums": sums.view(-1, 2).cpu(), "epoch": self.train_loss}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the loss of the epoch."""
        super().on_load_checkpoint(checkpoint)
        if state := checkpoint.get("train_loss"):
            self.train_loss, sums = state["epoch"], state["sums"]
            trainer = attached_trainer(self)
            ranks = trainer.world_size if trainer is not None else 1
            if len(sums) != ranks:  # other devices than before: one goes on with what all had
                sums = torch.cat([sums.sum(dim=0, keepdim=True), torch.zeros(ranks - 1, 2, dtype=sums.dtype)])
            self._train_loss = LossMean(*sums[self.global_rank].to(self.device))

    def validation_step(self, batch: list[Batch], batch_idx: int) -> None:
        """Count a batch; its images come in groups of equal size."""
        self._count(batch)

    def test_step(self, batch: list[Batch], batch_idx: int) -> None:
        """Count a batch; its images come in groups of equal size."""
        self._count(batch)

    def on_validation_epoch_start(self) -> None:
        """Begin to count."""
        self._begin()

    def on_test_epoch_start(self) -> None:
        """Begin to count."""
        self._begin()

    def epoch_matrix(self) -> Tensor:
        """The confusion matrix (K, K) of the epoch over all ranks, int64; called by every rank, once an epoch."""
        # a copy, as the reduction is in place
        matrix: Tensor = self.trainer.strategy.reduce(self.confusion.matrix.clone().to(self.device), reduce_op="sum")
        return matrix

    def on_validation_epoch_end(self) -> None:
        """Log the loss, the mean over all images of all ranks."""
        self.log("val/loss", self._reduced(self._eval_loss))

    def on_test_epoch_end(self) -> None:
        """Log the loss, the mean over all images of all ranks."""
        self.log("test/loss", self._reduced(self._eval_loss))

    def _begin(self) -> None:
        self.confusion.reset()
        self._eval_loss = LossMean()

    def _count(self, batch: list[Batch]) -> None:
        for group in batch:
            # scores do not depend on the precision that the training has: half of it rounds differently in each batch
            with torch.autocast(self.device.type, enabled=False):
                logits = self.model(self.model.normalize(group["image"]))
            self.confusion.update(logits.argmax(dim=1), group["mask"])
            for image in range(len(logits)):  # the loss of each by itself, whatever batch it came in
                mask = group["mask"][image : image + 1]
                counted = (mask != self.ignore_index).any()
                self._eval_loss.add(self.loss(logits[image : image + 1], mask), counted)

    def _reduced(self, mean: "LossMean") -> Tensor:
        total: Tensor = self.trainer.strategy.reduce(mean.state(self.device), reduce_op="sum")
        return (total[0] / total[1].clamp(min=1)).float()  # nothing counted is a loss of zero, as for a batch


class LossMean:
    """A mean that is kept as sum and count, in float64, until it is asked for.

    float32 losses add up without rounding, and so in any order to the same sum, as long as it is below 5e8 times the
    smallest of them that is not 0.
    """

    def __init__(self, total: Tensor | float = 0.0, count: Tensor | float = 0.0) -> None:
        self.sum = total
        self.count = count

    def add(self, loss: Tensor, count: Tensor | int) -> None:
        """Count a mean loss of `count` images; nothing waits for the device."""
        self.sum = self.sum + loss.double() * count
        self.count = self.count + count

    def state(self, device: torch.device) -> Tensor:
        """Sum and count (2,), float64."""
        return torch.stack([torch.as_tensor(v, dtype=torch.float64, device=device) for v in (self.sum, self.count)])
