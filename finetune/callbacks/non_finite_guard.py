"""The callback that stops a training at a step with a non-finite loss or gradient, or skips the step."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from finetune.engine.fsdp import gather_full, local_shard
from finetune.engine.rank_zero import rank_zero_logger
from finetune.tasks import TuningTask, require_task
from finetune.tuning.parameter_info import ParameterInfo
from finetune.tuning.weight_averaging import batch_norms, statistics

logger = rank_zero_logger(__name__)
MAX_NAMED_IMAGES = 20


class NonFiniteError(RuntimeError):
    """A training with a non-finite loss or gradient."""


class NonFiniteGuard(pl.Callback):
    """A callback that checks loss and gradients before every optimizer step.

    A step with a NaN or infinite loss or gradient changes no weight, no optimizer state and no batch-norm statistics.
    It stops the training with an error that names the images and layers, or is skipped with a warning if
    `max_skipped_steps` allows it.

    Each step costs a gradient norm and a copy of the batch-norm statistics. With a loss scaler (16-mixed) only the loss
    is checked: scaled gradients overflow now and then, and the scaler skips such steps itself.

    Args:
        max_skipped_steps: number of bad steps in a row to skip; one more stops the training.

    Raises:
        NonFiniteError: while training, on all ranks.
    """

    def __init__(self, max_skipped_steps: int = 0) -> None:
        if isinstance(max_skipped_steps, bool) or not isinstance(max_skipped_steps, int) or max_skipped_steps < 0:
            raise ValueError(
                f"NonFiniteGuard has max_skipped_steps={max_skipped_steps}; expected a whole number, 0 or more."
            )
        self.max_skipped_steps = max_skipped_steps
        self._skipped = 0  # in a row
        # of this rank, for each batch since the last step
        self._images: list[Tensor] = []  # indices
        self._losses: list[Tensor] = []
        self._sums: list[list[Tensor]] = []  # of which the loss is computed
        self._statistics: list[tuple[list[Tensor], list[Tensor]]] = []  # now, and before the step

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Reset the count for a new training."""
        if stage == "fit":
            self._skipped = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the batch norms, which the strategy may have replaced before."""
        buffers = statistics(batch_norms(require_task(pl_module, self).model)).values()
        by_dtype = {buffer.dtype: [other for other in buffers if other.dtype == buffer.dtype] for buffer in buffers}
        # because a GPU copies many tensors with one kernel only if they have one dtype
        self._statistics = [(group, [torch.empty_like(buffer) for buffer in group]) for group in by_dtype.values()]

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Record the images, and copy the statistics before the first batch of a step."""
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._images, self._losses, self._sums = [], [], []
            for now, before in self._statistics:
                torch._foreach_copy_(before, now)
        self._images.append(batch["index"])

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Record the loss, and multiply it by NaN if it is not finite, else by 1.

        A non-finite loss on one rank then makes the reduced gradients non-finite on every rank. So ranks decide alike
        without further communication, and without waiting for the device here.
        """
        self._losses.append(loss.detach().clone())
        self._sums.append(require_task(pl_module, self).local_loss_sums)
        loss.mul_(loss.detach() * 0 + 1)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Do nothing for a finite step; skip any other one, or stop the training."""
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if math.isfinite(_norm([p.grad for p in parameters])):
            self._skipped = 0
            return
        message = self._describe_problem(trainer, require_task(pl_module, self))
        if message is None:
            return
        for now, before in self._statistics:
            torch._foreach_copy_(now, before)
        if self._skipped >= self.max_skipped_steps:
            raise NonFiniteError(f"{message} {_next_moves(trainer, optimizer, self.max_skipped_steps)}")
        self._skipped += 1
        if _scaler(trainer) is None:  # a scaler skips the step itself, and has to see the gradients
            for parameter in parameters:
                parameter.grad = None
        logger.warning(f"{message} The step is skipped, {self._skipped} of at most {self.max_skipped_steps} in a row.")

    def state_dict(self) -> dict[str, Any]:
        """Return the number of steps that were skipped in a row, if there are any."""
        return {"skipped": self._skipped} if self._skipped else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the count."""
        self._skipped = state_dict.get("skipped", 0)

    def _describe_problem(self, trainer: pl.Trainer, task: TuningTask) -> str | None:
        """Return what is not finite in the step, and for which images; None if nothing is. Collective."""
        batches = self._gather_batches(trainer)
        # a bad sum of one rank makes the loss, which is of all ranks, bad on each of them
        causes = [(loss, images) for loss, images, is_finite in batches if not is_finite]
        diverged = causes or [(loss, images) for loss, images, _ in batches if not math.isfinite(loss)]
        place = f"epoch {trainer.current_epoch + 1}, step {trainer.global_step + 1}"
        if diverged:
            images = [index for _, indices in diverged for index in indices]
            return f"{place}: the loss is {diverged[0][0]}. {_image_names(trainer, images)}"
        if _scaler(trainer) is not None:
            return None
        gradients = {name: p.grad for name, p in task.model.named_parameters() if p.grad is not None}
        is_finite = _finite_gradients(trainer, gradients)
        if all(is_finite.values()):  # only their norm overflows
            return None
        loss = sum(loss for loss, *_ in batches) / len(batches)
        images = [index for _, indices, _ in batches for index in indices]
        cause = _describe_gradients(is_finite, task.places)
        return f"{place}: the loss is {loss:.4g}, but {cause} {_image_names(trainer, images)}"

    def _gather_batches(self, trainer: pl.Trainer) -> list[tuple[float, list[int], bool]]:
        """Return loss, image indices and whether their sums are finite, for the step's batches on all ranks."""
        counts, scaler = [len(images) for images in self._images], _scaler(trainer)
        factor = len(self._losses) / (scaler.get_scale() if scaler is not None else 1.0)
        losses = trainer.strategy.all_gather(torch.stack(self._losses) * factor).flatten().tolist()
        images = trainer.strategy.all_gather(torch.cat(self._images)).view(-1, sum(counts))
        indices = (batch.tolist() for rank in images for batch in rank.split(counts))  # ranks have equal counts
        finite = [int(all(bool(total.isfinite().all()) for total in sums)) for sums in self._sums]
        own = trainer.strategy.all_gather(torch.tensor(finite, device=self._losses[0].device)).flatten().tolist()
        return list(zip(losses, indices, map(bool, own), strict=True))


def _norm(gradients: Sequence[Tensor]) -> float:
    """Return the norm of all gradients, also of sharded ones. It waits for the device."""
    return float(gather_full(get_total_norm(gradients)))


def _finite_gradients(trainer: pl.Trainer, gradients: Mapping[str, Tensor]) -> dict[str, bool]:
    """Return for each gradient whether it is finite in all shards. Collective."""
    bad = torch.stack([(~local_shard(gradient).isfinite()).any() for gradient in gradients.values()])
    counts: Tensor = trainer.strategy.reduce(bad.int(), reduce_op="sum")  # not the largest norm, which may drop a NaN
    return {name: count == 0 for name, count in zip(gradients, counts.tolist(), strict=True)}


def _describe_gradients(is_finite: Mapping[str, bool], places: Mapping[str, ParameterInfo]) -> str:
    """Return which gradients are not finite, and in which parts of the model.

    Args:
        is_finite: parameter name -> whether its gradient is finite, in the order of the network.
        places: parameter name -> its layer group.

    >>> places = {name: ParameterInfo(name, 0, 0, 1, 1) for name in ("backbone", "decoder", "head")}
    >>> _describe_gradients({"backbone": False, "decoder": False, "head": True}, places)
    '2 of 3 parameters got a gradient that is not finite: backbone, decoder (in backbone, decoder; finite in head).'
    """
    names = [name for name, finite in is_finite.items() if not finite]
    parts = dict.fromkeys(places[name].label for name in names)
    others = [label for label in dict.fromkeys(places[name].label for name in is_finite) if label not in parts]
    # the last one is where the backward pass begins
    shown = ", ".join(names if len(names) <= 4 else [*names[:3], "...", names[-1]])
    rest = f"finite in {', '.join(others)}" if others else "finite nowhere"
    return (
        f"{len(names)} of {len(is_finite)} parameters got a gradient that is not finite: {shown} "
        f"(in {', '.join(parts)}; {rest})."
    )


def _image_names(trainer: pl.Trainer, indices: Sequence[int]) -> str:
    """Return a sentence with the images, by name if the data has names."""
    names = getattr(getattr(trainer.datamodule, "train", None), "names", None)  # type: ignore[attr-defined]  # set by fit
    images = [names[index] if names is not None else f"index {index}" for index in indices]
    more = f" and {len(images) - MAX_NAMED_IMAGES} more" if len(images) > MAX_NAMED_IMAGES else ""
    return f"Its images: {', '.join(images[:MAX_NAMED_IMAGES])}{more}."


def _next_moves(trainer: pl.Trainer, optimizer: Optimizer, max_skipped_steps: int) -> str:
    rates = sorted({group["lr"] for group in optimizer.param_groups})
    rate = f"{rates[0]:.3g}" if len(rates) == 1 else f"{rates[0]:.3g} to {rates[-1]:.3g}"
    clip, precision = trainer.gradient_clip_val, trainer.precision
    moves = [
        "check these images and masks",
        f"lower optimizer.lr (the rate is {rate})",
        f"lower trainer.gradient_clip_val={clip}" if clip else "set trainer.gradient_clip_val=1.0",
        *([f"set trainer.precision=32-true instead of {precision}"] if "16" in str(precision) else []),
        *(["set callbacks.non_finite.max_skipped_steps=3 to skip such steps"] if not max_skipped_steps else []),
    ]
    return f"The step has changed no weight. Next: {'; '.join(moves)}."


def _scaler(trainer: pl.Trainer) -> "torch.amp.GradScaler | None":
    return getattr(trainer.precision_plugin, "scaler", None)
