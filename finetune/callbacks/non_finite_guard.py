"""Stops a training at the step whose loss or gradients are not finite, or leaves that step out."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from finetune.engine.fsdp import gather_full, local_shard
from finetune.tasks import TuningTask
from finetune.tuning.parameter_info import ParameterInfo
from finetune.tuning.weight_averaging import batch_norms, statistics

logger = logging.getLogger(__name__)
SHOWN = 20  # images that are named


class NonFiniteError(RuntimeError):
    """A training whose loss or gradients are no longer finite."""


class NonFiniteGuard(pl.Callback):
    """Looks at every step before the optimizer takes it.

    A step whose loss or gradients are NaN or infinite changes nothing: no weight, no state of the optimizer, no
    batch-norm statistics. The training ends there, with the names of the images and of the layers; or, if it may
    skip steps, it goes on with a warning.

    It costs the norm of the gradients and a copy of the batch-norm statistics at each step. Scaled losses (16-mixed)
    are watched but for their gradients: those overflow now and then, and the scaler leaves such steps out itself.

    Args:
        max_skipped_steps: bad steps in a row that are left out; one more ends the training.

    Raises:
        NonFiniteError: in a training, on all ranks alike.
    """

    def __init__(self, max_skipped_steps: int = 0) -> None:
        if isinstance(max_skipped_steps, bool) or not isinstance(max_skipped_steps, int) or max_skipped_steps < 0:
            raise ValueError(
                f"Guard has max_skipped_steps={max_skipped_steps}; expected a whole number of 0 or more, of steps."
            )
        self.max_skipped_steps = max_skipped_steps
        self._skipped = 0  # in a row
        self._images: list[Tensor] = []  # indices, by batch since the last step
        self._losses: list[Tensor] = []
        self._sums: list[list[Tensor]] = []  # what this rank has a part of each loss
        self._statistics: list[tuple[list[Tensor], list[Tensor]]] = []  # and what they were before the step

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Begin anew with each training."""
        if stage == "fit":
            self._skipped = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the batch norms, now that the strategy has wrapped or replaced them."""
        found = statistics(batch_norms(_task(pl_module).model)).values()
        kinds = {buffer.dtype: [other for other in found if other.dtype == buffer.dtype] for buffer in found}
        # by type, because a GPU copies many tensors with one kernel only if all are alike
        self._statistics = [(kind, [torch.empty_like(buffer) for buffer in kind]) for kind in kinds.values()]

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note the images; keep the statistics from before the first batch of a step."""
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._images, self._losses, self._sums = [], [], []
            for now, before in self._statistics:
                torch._foreach_copy_(before, now)
        self._images.append(batch["index"])

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Note the loss, and let it spoil all gradients if it is not finite: a factor of 1, or else of NaN.

        So the gradients tell of everything, and without anybody having to wait for the device here. DDP and FSDP have
        summed them over all ranks before the optimizer steps, so every rank sees the same and does the same, and nobody
        has to ask the others as long as all is well.
        """
        self._losses.append(loss.detach().clone())
        self._sums.append(_task(pl_module).local_loss_sums)
        loss.mul_(loss.detach() * 0 + 1)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Let a good step pass; leave a bad one out, or end the training."""
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if math.isfinite(_norm([p.grad for p in parameters])):
            self._skipped = 0
            return
        message = self._complaint(trainer, _task(pl_module))
        if message is None:
            return
        for now, before in self._statistics:
            torch._foreach_copy_(now, before)
        if self._skipped >= self.max_skipped_steps:
            raise NonFiniteError(f"{message} {_next_moves(trainer, optimizer, self.max_skipped_steps)}")
        self._skipped += 1
        if _scaler(trainer) is None:  # which leaves the step out by itself, and wants to see why
            for parameter in parameters:
                parameter.grad = None
        _warn(f"{message} The step is left out, {self._skipped} of at most {self.max_skipped_steps} in a row.")

    def state_dict(self) -> dict[str, Any]:
        """How many steps were skipped just now, if any were."""
        return {"skipped": self._skipped} if self._skipped else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self._skipped = state_dict.get("skipped", 0)

    def _complaint(self, trainer: pl.Trainer, task: TuningTask) -> str | None:
        """What is wrong with the step, and with which images; None if nothing is."""
        batches = self._batches(trainer)
        spoilt = [(loss, images) for loss, images, own in batches if not own]  # by one rank for all of them
        diverged = spoilt or [(loss, images) for loss, images, _ in batches if not math.isfinite(loss)]
        place = f"epoch {trainer.current_epoch + 1}, step {trainer.global_step + 1}"
        if diverged:
            images = [i for _, some in diverged for i in some]
            return f"{place}: the loss is {diverged[0][0]}. {_named(trainer, images)}"
        if _scaler(trainer) is not None:
            return None
        finite = _finite(trainer, {name: p.grad for name, p in task.model.named_parameters() if p.grad is not None})
        if all(finite.values()):  # only the norm of all is too large for its type
            return None
        loss = sum(loss for loss, *_ in batches) / len(batches)
        images = [i for _, some, _ in batches for i in some]
        return f"{place}: the loss is {loss:.4g}, but {_broken(finite, task.places)} {_named(trainer, images)}"

    def _batches(self, trainer: pl.Trainer) -> list[tuple[float, list[int], bool]]:
        """Loss, images and whether their sums are finite, of the step's batches on all ranks, equally many on each."""
        counts, scaler = [len(images) for images in self._images], _scaler(trainer)
        factor = trainer.accumulate_grad_batches / (scaler.get_scale() if scaler is not None else 1.0)
        losses = trainer.strategy.all_gather(torch.stack(self._losses) * factor).flatten().tolist()
        images = trainer.strategy.all_gather(torch.cat(self._images)).view(-1, sum(counts))
        named = (batch.tolist() for rank in images for batch in rank.split(counts))
        finite = [int(all(bool(part.isfinite().all()) for part in sums)) for sums in self._sums]
        own = trainer.strategy.all_gather(torch.tensor(finite, device=self._losses[0].device)).flatten().tolist()
        return list(zip(losses, named, map(bool, own), strict=True))


def _norm(gradients: Sequence[Tensor]) -> float:
    """Of all together; of sharded ones over all ranks. Waits for the device."""
    return float(gather_full(get_total_norm(gradients)))


def _finite(trainer: pl.Trainer, gradients: Mapping[str, Tensor]) -> dict[str, bool]:
    """Whether all of a gradient is finite, on all ranks; they see the same, but of a sharded model only a share."""
    wrong = torch.stack([(~local_shard(gradient).isfinite()).any() for gradient in gradients.values()])
    counts: Tensor = trainer.strategy.reduce(wrong.int(), reduce_op="sum")  # of norms, a maximum would drop a NaN
    return {name: count == 0 for name, count in zip(gradients, counts.tolist(), strict=True)}


def _broken(finite: Mapping[str, bool], places: Mapping[str, ParameterInfo]) -> str:
    """Which gradients are not finite, and in which parts of the model; parameters in the order of the network.

    >>> places = {name: ParameterInfo(name, 0, 0, 1, 1) for name in ("backbone", "decoder", "head")}
    >>> _broken({"backbone": False, "decoder": False, "head": True}, places)
    '2 of 3 parameters got a gradient that is not finite: backbone, decoder (in backbone, decoder; finite in head).'
    """
    names = [name for name, is_finite in finite.items() if not is_finite]
    parts = dict.fromkeys(places[name].label for name in names)
    others = [label for label in dict.fromkeys(places[name].label for name in finite) if label not in parts]
    # the backward pass meets the last one first
    shown = ", ".join(names if len(names) <= 4 else [*names[:3], "...", names[-1]])
    rest = f"finite in {', '.join(others)}" if others else "finite nowhere"
    return (
        f"{len(names)} of {len(finite)} parameters got a gradient that is not finite: {shown} "
        f"(in {', '.join(parts)}; {rest})."
    )


def _named(trainer: pl.Trainer, indices: Sequence[int]) -> str:
    """The images, by name where the data knows names."""
    names = getattr(getattr(trainer.datamodule, "train", None), "names", None)  # type: ignore[attr-defined]  # set by fit
    said = [names[index] if names is not None else f"index {index}" for index in indices]
    more = f" and {len(said) - SHOWN} more" if len(said) > SHOWN else ""
    return f"Its images: {', '.join(said[:SHOWN])}{more}."


def _next_moves(trainer: pl.Trainer, optimizer: Optimizer, max_skipped_steps: int) -> str:
    rates = sorted({group["lr"] for group in optimizer.param_groups})
    rate = f"{rates[0]:.3g}" if len(rates) == 1 else f"{rates[0]:.3g} to {rates[-1]:.3g}"
    clip, precision = trainer.gradient_clip_val, trainer.precision
    moves = [
        "look at these images and masks",
        f"lower optimizer.lr (the rate is {rate})",
        f"lower trainer.gradient_clip_val={clip}" if clip else "set trainer.gradient_clip_val=1.0",
        *([f"set trainer.precision=32-true instead of {precision}"] if "16" in str(precision) else []),
        *(["let callbacks.non_finite.max_skipped_steps=3 leave such steps out"] if not max_skipped_steps else []),
    ]
    return f"The step has changed no weight. Next: {'; '.join(moves)}."


def _scaler(trainer: pl.Trainer) -> "torch.amp.GradScaler | None":
    return getattr(trainer.precision_plugin, "scaler", None)


def _task(pl_module: pl.LightningModule) -> TuningTask:
    if not isinstance(pl_module, TuningTask):
        raise TypeError(f"the Guard callback needs a TuningTask, for its layers; got {type(pl_module).__name__}.")
    return pl_module


@rank_zero_only
def _warn(message: str) -> None:
    logger.warning(message)
