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
    gradients of what is unfrozen later would not be reduced, and the ranks would drift apart without a word.

    Source: https://github.com/Lightning-AI/pytorch-lightning/issues/20340
    """
    strategy = trainer.strategy
    if isinstance(strategy, DDPStrategy) and isinstance(strategy.model, DistributedDataParallel):
        strategy.model = strategy.lightning_module
        gc.collect()  # the old reducer's hooks go only when the old wrapper does
        strategy.configure_ddp()
        keep_buffers(trainer)


def keep_buffers(trainer: pl.Trainer) -> None:
    """Let every rank keep its buffers; with `average_statistics` they have what DDP would send before each step."""
    if isinstance(trainer.strategy.model, DistributedDataParallel):
        trainer.strategy.model.broadcast_buffers = False


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


def sum_over_ranks(trainer: pl.Trainer, own: Tensor) -> Tensor:
    """The sum of what all ranks have, with the gradient that makes their mean that of the sum.

    DDP and FSDP average gradients over the ranks, so what a rank has counts as often as there are ranks.

    Args:
        trainer: whose ranks take part; all of them call.
        own: of this rank, of any shape, the same on all of them.
    """
    if trainer.world_size == 1:
        return own
    total: Tensor = trainer.strategy.reduce(own.detach().clone(), reduce_op="sum")
    counted = own * trainer.world_size
    return total + (counted - counted.detach())


def average_statistics(trainer: pl.Trainer, norms: Iterable[nn.Module]) -> None:
    """Give all ranks the mean of their batch-norm statistics, where DDP would give them those of the first rank.

    After every step: the statistics are weighted sums over the steps, so this is the mean of what each batch has, and a
    checkpoint, which is of one rank, is that of all.

    Args:
        trainer: whose ranks take part.
        norms: modules with running statistics.
    """
    if trainer.world_size == 1:
        return
    statistics: list[Tensor] = [
        buffer
        for norm in norms
        for name, buffer in norm.named_buffers(recurse=False)
        if name in ("running_mean", "running_var")
    ]
    if not statistics:
        return
    mean: Tensor = trainer.strategy.reduce(torch.cat([buffer.flatten() for buffer in statistics]), reduce_op="mean")
    parts = mean.split_with_sizes([buffer.numel() for buffer in statistics])
    torch._foreach_copy_(statistics, [part.view_as(b) for part, b in zip(parts, statistics, strict=True)])
