"""The interface of a task, and the hooks that average its losses and count its scores over an epoch."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from torch import Tensor

from finetune.engine.ddp import sum_over_ranks
from finetune.engine.lightning_private import attached_trainer
from finetune.engine.loop_state import ends_epoch, window_scale
from finetune.inference.output import TaskOutput
from finetune.io.allocator import return_memory
from finetune.losses import Loss, Reduce, no_reduction
from finetune.metrics.evaluator import Evaluator
from finetune.metrics.measurement import Measurement
from finetune.metrics.widest_float import widest_float
from finetune.models import PyramidModel, Segmenter
from finetune.tasks.loss_mean import LossMean


class ScoredTask(pl.LightningModule, ABC):
    """A LightningModule with an evaluator.

    A task is a subclass with a `name`, an `evaluator_type`, an `output_type` and the abstract methods; with a
    `model_type` if it is no `Segmenter`, and `takes_objects` if its targets are planes of objects. Its constructor
    takes `model`, `loss` (None for the default) and `ignore_index`; then the options in `conf/task/<name>.yaml`, which
    `output_type` takes too; then those of `TuningTask`. `TASKS[name]` makes it known to the command line.

    Args:
        evaluator: counts predictions and computes scores.
        output: turns the model's outputs into predictions.

    Attributes:
        train_loss: mean over the images of the epoch up to its last batch or latest validation, of all ranks.
        eval_loss: mean over the images of the evaluation so far, of this rank.
        non_finite: images of the evaluation so far whose outputs are NaN or infinite, of this rank; int64.
        non_finite_images: their number over all ranks, as of the latest `sum_counts`.
        total_counts: of the latest `sum_counts`; None since the evaluation started.
        image_losses: indices (B,) and losses (B,) of the evaluation's images so far, of this rank; a task need not
            keep them.
        measurements: by name, of the next evaluations; a task need not support them.
        evaluates_loss: whether evaluations compute the loss.
        local_loss_sums: this rank's part of the sums of the last loss.
    """

    name: ClassVar[str]
    evaluator_type: ClassVar[type[Evaluator]]
    output_type: ClassVar[type[TaskOutput]]
    model_type: ClassVar[type[PyramidModel]] = Segmenter
    takes_objects: ClassVar[bool] = False

    def __init__(self, evaluator: Evaluator, output: TaskOutput) -> None:
        super().__init__()
        self.evaluator = evaluator
        self.output = output
        self.train_loss: Tensor | None = None
        self.eval_loss = LossMean()
        self.non_finite = torch.zeros((), dtype=torch.int64)
        self.non_finite_images = 0
        self.total_counts: dict[str, Tensor] | None = None
        self.image_losses: list[tuple[Tensor, Tensor]] = []
        self.measurements: Mapping[str, Measurement] = {}
        self.evaluates_loss = True
        self.local_loss_sums: list[Tensor] = []
        self._train_loss = LossMean()

    @classmethod
    @abstractmethod
    def accepts(cls, loss: type[Loss]) -> bool:
        """Return whether a loss fits the task."""

    @classmethod
    @abstractmethod
    def check_target(cls, target: Tensor, class_names: Sequence[str], ignore_index: int) -> None:
        """Raise ValueError if a target of the data set, without batch dimension, does not fit the task."""

    @abstractmethod
    def losses(self, batch: Any, reduce: Reduce = no_reduction) -> tuple[Tensor, Tensor]:
        """Return the main loss and the weighted auxiliary loss of a training batch, both scalar.

        Args:
            batch: of the data module's training loader, on the task's device.
            reduce: adds up the sums of all devices.
        """

    @abstractmethod
    def count_images(self, batch: Any) -> Tensor:
        """Return the number of images of a training batch that add something to its loss."""

    @abstractmethod
    def evaluate(self, batch: Any) -> None:
        """Add a batch of the validation or test loader to `evaluator`, `eval_loss` and `non_finite`."""

    @abstractmethod
    def dummy_batch(self, shape: tuple[int, int, int, int]) -> Any:
        """Return a random training batch of images (B, C, H, W), on the task's device."""

    @property
    def root_device(self) -> torch.device:
        """Device that the trainer computes on; the task itself is on the CPU after a training or evaluation."""
        trainer = attached_trainer(self)
        return self.device if trainer is None else trainer.strategy.root_device

    def config(self) -> dict[str, Any]:
        """Return the task's name and the options of its output as plain data, for saved models."""
        return {"name": self.name, **self.output.options()}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss of the global batch, with penalties.

        It is scaled so that a step takes the mean of its batches, also where it has fewer.
        """
        self.local_loss_sums = []
        loss, auxiliary = self.losses(batch, self._sum_over_ranks)
        # a step that is skipped, because its loss is not finite, does not change the epoch's mean
        self._train_loss.add(loss.detach().nan_to_num(0, 0, 0), self.count_images(batch) * loss.isfinite())
        trainer = attached_trainer(self)
        scale = 1.0 if trainer is None else window_scale(trainer, batch_idx)
        total = loss + auxiliary + self.penalty()
        return total * scale if scale != 1 else total

    def penalty(self) -> Tensor | float:
        """Return what a step adds to the loss."""
        return 0.0

    def _sum_over_ranks(self, sums: Tensor) -> Tensor:
        self.local_loss_sums.append(sums.detach())
        trainer = attached_trainer(self)
        return sums if trainer is None else sum_over_ranks(trainer, sums)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Count a batch."""
        self.evaluate(batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Count a batch."""
        self.evaluate(batch)

    def sum_counts(self) -> dict[str, Tensor]:
        """Return the evaluator's counts summed over all ranks, on the CPU.

        Collective: every rank calls it once per evaluation.
        """
        self.total_counts = self.sum_over_ranks(self.evaluator.counts())
        return self.total_counts

    def sum_over_ranks(self, counts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return counts summed over all ranks, on the CPU.

        The number of images whose outputs are not finite is summed in the same call, into `non_finite_images`.
        """
        tensors = [*counts.values(), self.non_finite]
        flat = torch.cat([tensor.flatten().to(self.root_device) for tensor in tensors])  # reduced in place
        total: Tensor = self.trainer.strategy.reduce(flat, reduce_op="sum")
        *parts, non_finite = torch.split(total.cpu(), [tensor.numel() for tensor in tensors])
        self.non_finite_images = int(non_finite)
        pairs = zip(counts.items(), parts, strict=True)
        return {name: part.view_as(tensor) for (name, tensor), part in pairs}

    def sum_measurements(self) -> dict[str, dict[str, Tensor]]:
        """Return the sums of each measurement over all ranks, on the CPU. Collective."""

        def total(tensor: Tensor) -> Tensor:
            if self.trainer.world_size == 1:  # sums in float64 may be on the CPU of a device that has none
                return tensor.cpu()
            # a copy, as it is reduced in place
            summed: Tensor = self.trainer.strategy.reduce(tensor.to(self.root_device, copy=True), reduce_op="sum")
            return summed.cpu()

        measured = self.measurements.items()
        return {name: {key: total(tensor) for key, tensor in each.sums().items()} for name, each in measured}

    def on_train_epoch_start(self) -> None:
        """Start the mean of the epoch's loss."""
        self._train_loss = LossMean()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Compute the epoch's loss after its last batch."""
        if ends_epoch(self.trainer):
            self.train_loss = self._mean_over_ranks(self._train_loss)

    def on_train_epoch_end(self) -> None:
        """Log the epoch's loss, the mean over all images of all ranks."""
        if self.train_loss is not None:
            self.log("train/loss", self.train_loss)

    def on_validation_start(self) -> None:
        """Compute the loss so far, so that a validation inside the epoch can report it."""
        if self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            self.train_loss = self._mean_over_ranks(self._train_loss)

    def on_validation_epoch_start(self) -> None:
        """Start an evaluation."""
        self._start_evaluation()

    def on_test_epoch_start(self) -> None:
        """Start an evaluation."""
        self._start_evaluation()

    def _start_evaluation(self) -> None:
        self._reset()
        return_memory()  # what the steps have freed would add to what whole images take

    def on_validation_epoch_end(self) -> None:
        """Log the loss, if there is one, the mean over all images of all ranks."""
        if self.evaluates_loss:
            self.log("val/loss", self._mean_over_ranks(self.eval_loss))

    def on_test_epoch_end(self) -> None:
        """Log the loss, the mean over all images of all ranks."""
        if self.evaluates_loss:
            self.log("test/loss", self._mean_over_ranks(self.eval_loss))

    def _reset(self) -> None:
        self.evaluator.reset()
        self.total_counts, self.image_losses = None, []
        self.eval_loss = LossMean()
        self.non_finite = torch.zeros((), dtype=torch.int64, device=self.device)

    def _mean_over_ranks(self, mean: LossMean) -> Tensor:
        total: Tensor = self.trainer.strategy.reduce(mean.state(self.device), reduce_op="sum")
        return (total[0] / total[1].clamp(min=1)).float()  # 0 where no image counts, as for a batch

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the config of the task and the loss of the epoch so far."""
        checkpoint["task"] = self.config()
        # per rank: a sum in another order would round differently
        sums = self.all_gather(self._train_loss.state(self.root_device))
        assert isinstance(sums, Tensor)
        checkpoint["train_loss"] = {"sums": sums.view(-1, 2).cpu(), "epoch": self.train_loss}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the loss of the epoch."""
        if state := checkpoint.get("train_loss"):
            self.train_loss, sums = state["epoch"], state["sums"]
            trainer = attached_trainer(self)
            ranks = 1 if trainer is None else trainer.world_size
            if len(sums) != ranks:  # another number of devices than before: rank 0 continues from the total
                sums = torch.cat([sums.sum(dim=0, keepdim=True), torch.zeros(ranks - 1, 2, dtype=sums.dtype)])
            dtype = widest_float(self.device)
            self._train_loss = LossMean(*sums[self.global_rank].to(self.device, dtype))
