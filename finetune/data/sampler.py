"""The order of the samples: a function of the seed, sharded over ranks."""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

from finetune.data.dataset import SampleKey, counted_generator


class TrainSampler(Sampler[SampleKey]):
    """One shard of a new permutation in every epoch.

    With weights, an epoch has as many samples, but each image n times on average, where n is its weight over the mean
    weight, times `repeats`: the whole part of n in every epoch, and once more in a share of the epochs that makes up
    the rest. A repetition has other random numbers.

    The permutation is a pure function of (seed, epoch) and rank r takes its elements r, r + world_size, ...: batch b
    of all ranks together holds the same samples as batch b of one rank with a batch that is world_size times as large.
    All ranks get equally many samples; the remainder is left out, and differs between epochs.

    Lightning calls `set_epoch` before each epoch, but with workers it may call `iter` first. The first epoch is
    therefore right without it: 0 on a fresh start; on resume, set `epoch` (with `start`) before the loader is made.

    Args:
        length: number of images in the dataset.
        seed: of the permutations.
        rank: of this process.
        world_size: number of processes.
        weights: of the images, 0 or above; None if all have the same.
        repeats: times that an epoch has each image; with weights, on average.

    Attributes:
        epoch: the epoch of the next iteration.
        start: samples of this rank that the next iteration (only) skips, to resume inside an epoch.
    """

    def __init__(
        self,
        length: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        weights: Sequence[float] | None = None,
        repeats: int = 1,
    ) -> None:
        if length * repeats < world_size:
            raise ValueError(
                f"{length} training images, {repeats} times each, for {world_size} processes: each needs at least 1."
            )
        _check_rank(rank, world_size)
        if weights is not None and not sum(weights) > 0:
            raise ValueError("the weights of all training images are 0. Give some of them a weight above 0.")
        self.length = length
        self.samples = length * repeats
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.weights = None if weights is None else torch.tensor(weights, dtype=torch.float64)
        self.epoch = 0
        self.start = 0

    def __len__(self) -> int:
        return self.samples // self.world_size

    def __iter__(self) -> Iterator[SampleKey]:
        epoch, start, self.start = self.epoch, self.start, 0
        shard = self._order(epoch)[: len(self) * self.world_size][self.rank :: self.world_size]
        for index, repetition in shard[start:]:
            yield SampleKey(epoch, index, repetition)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration."""
        self.epoch = epoch

    def _order(self, epoch: int) -> list[tuple[int, int]]:
        """Return the samples of an epoch, each with the number of times that it has been there before."""
        generator = counted_generator(self.seed, epoch)
        order = torch.randperm(self.samples, generator=generator)
        if self.weights is None:
            return [(index % self.length, index // self.length) for index in order.tolist()]
        # evenly spaced marks on the weights laid end to end hit each as often as it has room for
        marks = torch.arange(self.samples) + torch.rand((), generator=generator, dtype=torch.float64)
        ends = self.weights.cumsum(0)
        chosen = torch.searchsorted(ends, marks * (ends[-1] / self.samples), right=True).clamp(max=self.length - 1)
        first = torch.searchsorted(chosen, chosen)  # equal ones lie next to each other
        repetitions = torch.arange(self.samples) - first
        return list(zip(chosen[order].tolist(), repetitions[order].tolist(), strict=True))


class EvaluationSampler(Sampler[int]):
    """One shard of the dataset in order, each sample exactly once over all ranks.

    Ranks take turns with the batches of a single process: the other images of a batch change how a prediction is
    rounded, so only then all ranks together predict bit for bit what one process does.

    Shards may differ by one batch, and are empty on the last ranks if there are more ranks than batches.

    Args:
        length: number of samples in the dataset.
        rank: of this process.
        world_size: number of processes.
        batch_size: samples in a batch.
    """

    def __init__(self, length: int, rank: int = 0, world_size: int = 1, batch_size: int = 1) -> None:
        _check_rank(rank, world_size)
        self.indices = [index for index in range(length) if index // batch_size % world_size == rank]

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)


def _check_rank(rank: int, world_size: int) -> None:
    if not 0 <= rank < world_size:
        raise ValueError(f"rank={rank} with world_size={world_size}: expected a rank from 0 to world_size - 1.")
