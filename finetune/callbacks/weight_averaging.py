"""Averages the weights during a training: exponentially (EMA), or all alike from a start on (SWA)."""

import logging
import math
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from finetune.data.sampler import TrainSampler
from finetune.engine.ddp import average_statistics
from finetune.tasks import TuningTask
from finetune.tuning.weight_averaging import (
    WeightAverage,
    batch_norms,
    check_resumable,
    equal_weight,
    exponential_weight,
    fresh_statistics,
    statistics,
    swap_weights,
)

logger = logging.getLogger(__name__)


class Averaging(pl.Callback):
    """What the averages have in common: when they are taken, and when the model holds them.

    Averages are taken after every optimizer step from the start on. The raw weights train; the averaged ones are in
    the model during a validation, from its start until this callback's `on_validation_end`, and for good when the
    training has ended. Until there is an average, the raw weights are validated and saved.

    A checkpoint's `state_dict` holds the averaged weights, those that were scored, whenever it is written. Its key
    `averaging` holds the raw weights, the averages and their count, from which a resumed training goes on exactly.
    (Not so with Lightning's `weights_only=True`, which asks no callback: it writes what the model holds just then.)

    Args:
        start: a whole number is an epoch, counted from 0; a float below 1 is a share of the training's steps.
        weight: what the newest weights count, after so many updates.

    Attributes:
        average: of nothing until a training begins.
    """

    def __init__(self, start: int | float, weight: Callable[[int], float]) -> None:
        if not (0 <= start < 1 or (isinstance(start, int) and start >= 1)):
            raise ValueError(
                f"{type(self).__name__} has start={start}; expected an epoch as a whole number from 0, "
                f"or a share of the training as a float from 0.0 to below 1."
            )
        self.start = start
        self.weight = weight
        self.average = WeightAverage(nn.Module())
        self._raw: dict[str, Tensor] = {}  # put aside while the model holds the averages
        self._saved: dict[str, Any] = {}
        self._step = 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Begin anew with each training.

        Raises:
            ValueError: another callback that averages, a start behind the end, or weights spread over devices.
        """
        if stage == "fit":
            self._check(trainer)
            self.average, self._raw, self._saved = WeightAverage(nn.Module()), {}, {}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Give the model back the weights that train; what reads a checkpoint to evaluate keeps the averaged ones."""
        if trainer.state.fn == "fit" and "averaging" in checkpoint:
            check_resumable(checkpoint, [self.state_key])
            self._saved = checkpoint["averaging"]
            swap_weights(pl_module, self._saved["raw"])

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take up the averages, now that the model is on its device."""
        self.average = WeightAverage(pl_module, self._saved.get("average"), self._saved.get("updates", 0))
        self._saved = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note which step is behind us, and say so if that was one without averages."""
        self._step = trainer.global_step
        if self._step and not self.average.updates and self._is_due(trainer):
            _say(f"{self.state_key}: nothing to go on with, the average begins with the weights of step {self._step}")

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Take in what begins to train, before it moves."""
        if self.average.values or self._is_due(trainer):
            self.average.track_new_parameters()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take an average, if the optimizer has made a step (gradients may be accumulated over several batches)."""
        if self.average.values and trainer.global_step > self._step:
            self.average.update(self.weight(self.average.updates))
        self._step = trainer.global_step

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the averaged weights in."""
        if trainer.state.fn == "fit" and self.average.updates:
            self._put_in(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the raw weights back; checkpoints that are written after it hold the averaged ones all the same."""
        if trainer.state.fn == "fit" and self._raw:
            swap_weights(pl_module, self._raw)
            self._raw = {}

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the averaged weights in the model, and say what it holds."""
        if not self.average.updates:
            _say(f"{self.state_key}: the training ended before start={self.start}, the weights are the raw ones")
            return
        self._put_in(trainer, pl_module)
        _say(f"{self.state_key}: the model now holds the average over {self.average.updates:,} steps")

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the averaged weights in the model also when a resumed training had nothing left to do."""
        if self.average.updates and not self._raw:
            self._put_in(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save the averaged weights as the model's, and the raw ones beside them."""
        if not self.average.updates:
            return
        state, averaged = checkpoint["state_dict"], self._averaged()
        checkpoint["averaging"] = {
            "callback": self.state_key,
            "updates": self.average.updates,
            "average": dict(self.average.values),
            "raw": self._raw or {name: state[name] for name in averaged},
        }
        if not self._raw:
            # weights in float32 are the averages themselves, and are stored once
            checkpoint["state_dict"] = state | {name: v.to(state[name].dtype) for name, v in averaged.items()}

    def _averaged(self) -> dict[str, Tensor]:
        """What the model of the averages has of its own, by name."""
        return dict(self.average.values)

    def _put_in(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._raw = swap_weights(pl_module, self._averaged())

    def _is_due(self, trainer: pl.Trainer) -> bool:
        if isinstance(self.start, int):
            return trainer.current_epoch >= self.start
        return trainer.global_step / trainer.estimated_stepping_batches >= self.start

    def _check(self, trainer: pl.Trainer) -> None:
        key, strategy = self.state_key, trainer.strategy
        callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]  # missing in the class
        if len(names := [c.state_key for c in callbacks if isinstance(c, Averaging)]) > 1:
            raise ValueError(f"the callbacks {' and '.join(names)} would average the same weights. Keep one of them.")
        if isinstance(self.start, int) and self.start >= (trainer.max_epochs or math.inf) > 0:
            raise ValueError(
                f"{key} starts at epoch {self.start}, counted from 0, but the training has {trainer.max_epochs} epochs."
                f" Lower callbacks.average.start; 0.75 starts it after three quarters of any training."
            )
        if not isinstance(strategy, SingleDeviceStrategy | DDPStrategy):
            raise ValueError(
                f"{key} averages weights that every device has in full, but {type(strategy).__name__} spreads them. "
                f"Use trainer.strategy=ddp, or average=none."
            )


class EMA(Averaging):
    """Exponential moving average: `average += (1 - d) * (weights - average)`, d = min(decay, (1 + t) / (10 + t)).

    The growing decay forgets the weights of the beginning: after t steps the memory is t / 9 steps long, until that
    is 1 / (1 - decay). Buffers, such as the statistics of batch norms, are those of the raw model.

    Args:
        decay: of the memory; 0.999 remembers some 1,000 steps.
        start: a whole number is an epoch, counted from 0; a float below 1 is a share of the training's steps.
    """

    def __init__(self, decay: float = 0.999, start: int | float = 0) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"EMA has decay={decay}; expected 0 or more and below 1, such as 0.999.")
        super().__init__(start, partial(exponential_weight, decay))


class SWA(Averaging):
    """Stochastic weight averaging: the plain mean of the weights after every step from the start on.

    Means of weights need batch-norm statistics of their own. They are gathered over the training data before each
    validation of averaged weights, and at the end if need be: one forward pass over all training images, about a
    third of the time of their epoch, and none where no batch norm trains. A checkpoint that is written between
    validations has the statistics of the latest one.

    Args:
        start: a whole number is an epoch, counted from 0; a float below 1 is a share of the training's steps.

    Source: Izmailov et al. 2018, https://arxiv.org/abs/1803.05407
    """

    def __init__(self, start: int | float = 0.75) -> None:
        super().__init__(start, equal_weight)
        self._norms: dict[str, _BatchNorm] = {}
        self._adapting: dict[str, _BatchNorm] = {}  # those that trained in the latest batch
        self._statistics: dict[str, Tensor] = {}
        self._gathered_at = 0  # updates of the average that the statistics are of

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Begin anew with each training."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._adapting, self._statistics, self._gathered_at = {}, {}, 0

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the saved statistics too."""
        super().on_load_checkpoint(trainer, pl_module, checkpoint)
        if self._saved:
            own = self._saved["raw"].keys() - self._saved["average"].keys()
            self._statistics = {name: checkpoint["state_dict"][name] for name in own}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the batch norms, now that the strategy has wrapped or replaced them."""
        super().on_fit_start(trainer, pl_module)
        self._norms = batch_norms(pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note which batch norms gather statistics; a validation sees all of them in eval mode."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self._adapting = {name: norm for name, norm in self._norms.items() if norm.training}

    def _averaged(self) -> dict[str, Tensor]:
        return super()._averaged() | self._statistics

    def _put_in(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        stale = bool(self._adapting) and self._gathered_at != self.average.updates
        if stale:  # listed before, so that the raw ones are put aside with the weights
            self._statistics |= _copies(self._adapting)
        super()._put_in(trainer, pl_module)
        if stale:
            _gather(trainer, pl_module, list(self._adapting.values()))
            self._statistics |= _copies(self._adapting)
            self._gathered_at = self.average.updates


def _copies(norms: dict[str, _BatchNorm]) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in statistics(norms).items()}


@torch.no_grad()
def _gather(trainer: pl.Trainer, pl_module: pl.LightningModule, norms: list[_BatchNorm]) -> None:
    """Statistics over the training images, the same ones in every epoch, so that they follow the weights only."""
    data = trainer.datamodule  # type: ignore[attr-defined]  # set by fit, missing in the class
    if data is None or not isinstance(pl_module, TuningTask):
        raise TypeError(
            f"SWA gathers batch-norm statistics with a TuningTask's model over a data module's training images; got "
            f"{type(pl_module).__name__} and {type(data).__name__}. Call fit(task, datamodule=...)."
        )
    loader = data.train_dataloader()  # a new one, as the training may be in the middle of its own
    if isinstance(loader.sampler, TrainSampler):
        loader.sampler.epoch = loader.sampler.start = 0
    batches = trainer.num_training_batches
    with trainer.precision_plugin.forward_context(), fresh_statistics(pl_module.model, norms):
        for batch in islice(loader, None if math.isinf(batches) else int(batches)):
            pl_module.model(pl_module.model.normalize(batch["image"].to(pl_module.device)))
    average_statistics(trainer, norms)  # of all ranks, which have met equally many batches


@rank_zero_only
def _say(message: str) -> None:
    logger.info(message)
