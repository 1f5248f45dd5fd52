"""Keeps the ranks of a distributed training together while what trains changes."""

import gc
from collections.abc import Iterable

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel


def wrap_again(trainer: pl.Trainer) -> None:
    """Let DDP learn anew which parameters train.

    Its reducer registers the parameters that require a gradient when it wraps the model, and never looks again:
    gradients of what is thawed later would not be reduced, and the ranks would drift apart without a word.

    Source: https://github.com/Lightning-AI/pytorch-lightning/issues/20340
    """
    strategy = trainer.strategy
    if isinstance(strategy, DDPStrategy) and isinstance(strategy.model, DistributedDataParallel):
        strategy.model = strategy.lightning_module
        gc.collect()  # the old reducer's hooks go only when the old wrapper does
        strategy.configure_ddp()


def check_ranks_agree(trainer: pl.Trainer, model: nn.Module) -> None:
    """Compare a checksum of every parameter over all ranks; a parameter that is NaN on all of them agrees.

    Raises:
        RuntimeError: on every rank, if one parameter differs.
    """
    named = dict(model.named_parameters())
    if trainer.world_size == 1 or any(isinstance(parameter, DTensor) for parameter in named.values()):
        return  # shards differ, and are meant to
    sums = torch.stack([parameter.detach().double().sum() for parameter in named.values()]).nan_to_num(nan=-1e300)
    lowest, highest = (trainer.strategy.reduce(sums.clone(), reduce_op=op) for op in ("min", "max"))
    different = [name for name, low, high in zip(named, lowest, highest, strict=True) if low != high]
    if different:
        raise RuntimeError(
            f"{len(different)} of {len(named)} parameters differ between the ranks ({', '.join(different[:3])}): a "
            f"gradient was not reduced. Look for callbacks that change requires_grad, or that train on one rank only."
        )


def average_statistics(trainer: pl.Trainer, norms: Iterable[nn.Module]) -> None:
    """Give all ranks the mean of their batch-norm statistics, where DDP would give them those of the first rank.

    Statistics that are the same on all ranks stay as they are, to the last bit: a training that is resumed right before
    a validation averages twice.

    Args:
        trainer: whose ranks take part.
        norms: modules with running statistics.
    """
    statistics: list[Tensor] = [
        buffer
        for norm in norms
        for name, buffer in norm.named_buffers(recurse=False)
        if name in ("running_mean", "running_var")
    ]
    if trainer.world_size == 1 or not statistics:
        return
    own = torch.cat([buffer.flatten() for buffer in statistics])
    lowest = trainer.strategy.reduce(own.clone(), reduce_op="min")
    # of what lies above the lowest, which is exactly 0 where all agree: a mean of three equal numbers may round
    mean = lowest + trainer.strategy.reduce(own - lowest, reduce_op="mean")
    for buffer, values in zip(
        statistics, mean.split_with_sizes([buffer.numel() for buffer in statistics]), strict=True
    ):
        buffer.copy_(values.view_as(buffer))
