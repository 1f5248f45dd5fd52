"""Callbacks that average the weights during a training: exponentially (EMA), or with equal weights (SWA)."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from finetune.engine.batch_norm_statistics import gather_statistics
from finetune.engine.loop_state import is_last_epoch
from finetune.engine.rank_zero import rank_zero_logger
from finetune.tasks import require_task
from finetune.tuning.weight_averaging import (
    WeightAverage,
    batch_norms,
    check_resumable,
    equal_weight,
    exponential_weight,
    statistics,
    swap_weights,
)

logger = rank_zero_logger(__name__)


class Averaging(pl.Callback):
    """The base of both averages: when the average is updated, and when the model holds it.

    The average is updated after every optimizer step from `start` on, while the raw weights train. The model holds the
    average during a validation, from its start until this callback's `on_validation_end`, and after the training.
    Before `start`, the raw weights are validated and saved.

    The `state_dict` of a checkpoint holds the average, which was validated unless steps came after. Its key
    `averaging` holds the raw weights, the average and the number of updates, so that a training can be resumed exactly.
    (Checkpoints that Lightning saves with `weights_only=True` hold what is in the model at the time, because Lightning
    calls no callback for them.)

    Lightning 2.6 has `WeightAveraging`, but a checkpoint that it saves inside a validation has average and raw weights
    swapped, so a training that is resumed from it ends with other weights. Nor does it gather batch-norm statistics.

    Args:
        start: first epoch to average, counted from 0, if an int; fraction of the training's steps, if a float below 1.
        weight: number of updates so far -> weight of the newest weights in the average.

    Attributes:
        average: running average; empty before the training.
    """

    def __init__(self, start: int | float, weight: Callable[[int], float]) -> None:
        if not (0 <= start < 1 or (isinstance(start, int) and start >= 1)):
            raise ValueError(
                f"{type(self).__name__} has start={start}; expected an epoch as a whole number from 0, "
                f"or a fraction of the training as a float from 0.0 to below 1."
            )
        self.start = start
        self.weight = weight
        self.average = WeightAverage(nn.Module())
        self._raw: dict[str, Tensor] = {}  # kept here while the model holds the average
        self._saved: dict[str, Any] = {}
        self._step = 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Reset the state for a new training.

        Raises:
            ValueError: there is another averaging callback, `start` is after the end, or the weights are sharded.
        """
        if stage == "fit":
            self._check(trainer)
            self.average, self._raw, self._saved = WeightAverage(nn.Module()), {}, {}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Load the raw weights to resume a training; an evaluation keeps the average."""
        if trainer.state.fn == "fit" and "averaging" in checkpoint:
            check_resumable(checkpoint, [self.state_key])
            self._saved = checkpoint["averaging"]
            swap_weights(pl_module, self._saved["raw"])

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the average, on the device of the model."""
        self.average = WeightAverage(pl_module, self._saved.get("average"), self._saved.get("updates", 0))
        self._saved = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start again if a longer training is resumed before its `start`; log that, or that there was no average."""
        self._step = trainer.global_step
        if self.average.updates and not self._is_due(trainer):
            self.average = WeightAverage(pl_module)
            logger.info(f"{self.state_key}: the training is longer now, so the average starts again at {self.start}")
        if self._step and not self.average.updates and self._is_due(trainer):
            logger.info(
                f"{self.state_key}: the checkpoint has no average; it starts from the weights of step {self._step}"
            )

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start to average parameters that have been unfrozen, from their values before the step."""
        if self.average.values or self._is_due(trainer):
            self.average.track_new_parameters()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the average, if the optimizer has made a step; gradients may be accumulated over several batches."""
        if self.average.values and trainer.global_step > self._step:
            self.average.update(self.weight(self.average.updates))
        self._step = trainer.global_step

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Load the average into the model."""
        if trainer.state.fn == "fit" and self.average.updates:
            self._load_average(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Load the raw weights again; checkpoints that are saved later hold the average nevertheless."""
        if trainer.state.fn == "fit" and self._raw:
            swap_weights(pl_module, self._raw)
            self._raw = {}

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Load the average into the model, and log over how many steps it is."""
        if not self.average.updates:
            logger.info(f"{self.state_key}: the training ended before start={self.start}, so the weights are raw")
            return
        self._load_average(trainer, pl_module)
        logger.info(f"{self.state_key}: the average is over {self.average.updates:,} steps")

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Load the average into the model also if a resumed training had no steps left."""
        if self.average.updates and not self._raw:
            self._load_average(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save the average in `state_dict`, and the raw weights under `averaging`."""
        if not self.average.updates:
            return
        state, average = checkpoint["state_dict"], self._average_tensors()
        checkpoint["averaging"] = {
            "callback": self.state_key,
            "updates": self.average.updates,
            "average": dict(self.average.values),
            "raw": self._raw or {name: state[name] for name in average},
        }
        if not self._raw:
            # float32 tensors are those of the average, which torch.save stores once
            checkpoint["state_dict"] = state | {name: v.to(state[name].dtype) for name, v in average.items()}

    def _average_tensors(self) -> dict[str, Tensor]:
        """Return the tensors in which the averaged model differs from the raw one, by name."""
        return dict(self.average.values)

    def _load_average(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._raw = swap_weights(pl_module, self._average_tensors())

    def _is_due(self, trainer: pl.Trainer) -> bool:
        if isinstance(self.start, int):
            return trainer.current_epoch >= self.start
        return trainer.global_step / trainer.estimated_stepping_batches >= self.start

    def _check(self, trainer: pl.Trainer) -> None:
        key, strategy = self.state_key, trainer.strategy
        callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]  # missing in the class
        if len(names := [c.state_key for c in callbacks if isinstance(c, Averaging)]) > 1:
            raise ValueError(f"the callbacks {' and '.join(names)} would both average the weights. Keep one of them.")
        if isinstance(self.start, int) and self.start >= (trainer.max_epochs or math.inf) > 0:
            raise ValueError(
                f"{key} starts at epoch {self.start}, counted from 0, but the training has {trainer.max_epochs} epochs."
                f" Lower callbacks.average.start; 0.75 starts after three quarters of any training."
            )
        if not isinstance(strategy, SingleDeviceStrategy | DDPStrategy):
            raise ValueError(
                f"{key} averages full weights, but {type(strategy).__name__} shards them over the devices. "
                f"Use trainer.strategy=ddp, or average=none."
            )


class EMA(Averaging):
    """Exponential moving average: `average += (1 - d) * (weights - average)`, d = min(decay, (1 + t) / (10 + t)).

    The decay grows, so that the first weights are soon forgotten: after t steps the average covers about t / 9 steps,
    up to 1 / (1 - decay). Buffers, such as batch-norm statistics, are those of the raw model.

    Args:
        decay: largest decay; 0.999 averages over about 1,000 steps.
        start: first epoch to average, counted from 0, if an int; fraction of the training's steps, if a float below 1.
    """

    def __init__(self, decay: float = 0.999, start: int | float = 0) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"EMA has decay={decay}; expected 0 or more and below 1, such as 0.999.")
        super().__init__(start, partial(exponential_weight, decay))


class SWA(Averaging):
    """Stochastic weight averaging: the mean of the weights after every step from `start` on.

    The mean needs batch-norm statistics of its own. They are gathered before each validation of averaged weights, and
    at the end of the training. This is one forward pass over all training images, about a third of the time of an
    epoch, and is skipped if no batch norm trains. A checkpoint that is saved between validations has the statistics
    of the latest one.

    Args:
        start: first epoch to average, counted from 0, if an int; fraction of the training's steps, if a float below 1.

    Source: Izmailov et al. 2018, https://arxiv.org/abs/1803.05407
    """

    def __init__(self, start: int | float = 0.75) -> None:
        super().__init__(start, equal_weight)
        self._norms: dict[str, _BatchNorm] = {}
        self._adapting: dict[str, _BatchNorm] = {}  # that were in training mode in the latest batch
        self._statistics: dict[str, Tensor] = {}
        self._gathered_at = 0  # number of updates for which the statistics were gathered

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Reset the state for a new training."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._adapting, self._statistics, self._gathered_at = {}, {}, 0

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restore the statistics too."""
        super().on_load_checkpoint(trainer, pl_module, checkpoint)
        if self._saved:
            own = self._saved["raw"].keys() - self._saved["average"].keys()
            self._statistics = {name: checkpoint["state_dict"][name] for name in own}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the batch norms, which the strategy may have replaced before."""
        super().on_fit_start(trainer, pl_module)
        self._norms = batch_norms(pl_module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget the statistics of an average that starts again."""
        super().on_train_start(trainer, pl_module)
        if not self.average.updates:
            self._statistics = {}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record which batch norms train; in a validation all of them are in eval mode."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self._adapting = {name: norm for name, norm in self._norms.items() if norm.training}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Gather statistics for the last checkpoint, if no validation has come since the last step."""
        if is_last_epoch(trainer) and self.average.updates and self._is_stale():
            self._load_average(trainer, pl_module)
            swap_weights(pl_module, self._raw)
            self._raw = {}

    def _average_tensors(self) -> dict[str, Tensor]:
        return super()._average_tensors() | self._statistics

    def _is_stale(self) -> bool:
        return bool(self._adapting) and self._gathered_at != self.average.updates

    def _load_average(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        is_stale = self._is_stale()
        if is_stale:  # add their names first, so that the raw statistics are kept with the raw weights
            self._statistics |= _copies(self._adapting)
        super()._load_average(trainer, pl_module)
        if is_stale:
            task = require_task(pl_module, self)
            gather_statistics(trainer, task.model, list(self._adapting.values()))
            self._statistics |= _copies(self._adapting)
            self._gathered_at = self.average.updates


def _copies(norms: dict[str, _BatchNorm]) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in statistics(norms).items()}
