"""Functions that keep the ranks of a distributed training equal while the set of trainable parameters changes."""

import gc
from collections.abc import Iterable

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel


def wrap_again(trainer: pl.Trainer) -> None:
    """Wrap the model in DDP again, if it is wrapped, so that DDP reduces the gradients of what trains now.

    DDP registers the parameters that require a gradient only when it wraps the model. Gradients of parameters that are
    unfrozen later would not be reduced, and the ranks would silently drift apart.

    Source: https://github.com/Lightning-AI/pytorch-lightning/issues/20340
    """
    strategy = trainer.strategy
    if isinstance(strategy, DDPStrategy) and isinstance(strategy.model, DistributedDataParallel):
        strategy.model = strategy.lightning_module
        gc.collect()  # the hooks of the old reducer are removed only with the old wrapper
        strategy.configure_ddp()
        keep_buffers(trainer)


def keep_buffers(trainer: pl.Trainer) -> None:
    """Keep DDP from sending rank 0's buffers before each step; `average_statistics` makes them equal."""
    if isinstance(trainer.strategy.model, DistributedDataParallel):
        trainer.strategy.model.broadcast_buffers = False


def check_ranks_agree(trainer: pl.Trainer, model: nn.Module) -> None:
    """Compare a checksum of every parameter over all ranks. Collective. Parameters that are NaN on all ranks agree.

    Raises:
        RuntimeError: a parameter differs; raised on every rank.
    """
    named = dict(model.named_parameters())
    if trainer.world_size == 1 or any(isinstance(parameter, DTensor) for parameter in named.values()):
        return  # shards differ by design
    sums = torch.stack([parameter.detach().double().sum() for parameter in named.values()]).nan_to_num(nan=-1e300)
    lowest, highest = (trainer.strategy.reduce(sums.clone(), reduce_op=op) for op in ("min", "max"))
    different = [name for name, low, high in zip(named, lowest, highest, strict=True) if low != high]
    if different:
        raise RuntimeError(
            f"{len(different)} of {len(named)} parameters differ between the ranks ({', '.join(different[:3])}): a "
            f"gradient was not reduced. Look for callbacks that change requires_grad, or that train on one rank only."
        )


def sum_over_ranks(trainer: pl.Trainer, own: Tensor) -> Tensor:
    """Return the sum over all ranks, with a gradient that is right after DDP or FSDP has averaged it. Collective.

    They divide gradients by the number of ranks, so the gradient of a rank's own part is multiplied by that number.

    Args:
        trainer: of the training.
        own: this rank's part, of any shape that is the same on all ranks.
    """
    if trainer.world_size == 1:
        return own
    total: Tensor = trainer.strategy.reduce(own.detach().clone(), reduce_op="sum")
    scaled = own * trainer.world_size
    return total + (scaled - scaled.detach())


def gather_rows(trainer: pl.Trainer, own: Tensor) -> Tensor:
    """Return the rows of all ranks (N, ...), rank by rank, the same on every rank. Collective.

    Args:
        trainer: of the training.
        own: this rank's rows (n, ...), of any number; on the device that the ranks communicate by.
    """
    numbers: Tensor = trainer.strategy.all_gather(torch.tensor(len(own), device=own.device))
    numbers = numbers.flatten()  # one number without ranks
    padded = own.new_zeros(int(numbers.max()), *own.shape[1:])
    padded[: len(own)] = own
    ranks = trainer.strategy.all_gather(padded).view(len(numbers), *padded.shape)
    return torch.cat([rows[:number] for rows, number in zip(ranks, numbers.tolist(), strict=True)])


def average_statistics(trainer: pl.Trainer, norms: Iterable[nn.Module]) -> None:
    """Give all ranks the mean of their batch-norm statistics; DDP alone would keep rank 0's. Collective.

    To be called after every step. Running statistics are linear in those of each batch, so their mean over the ranks
    equals running statistics of all images. A checkpoint, which rank 0 writes, then fits all ranks.

    Args:
        trainer: of the training.
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
