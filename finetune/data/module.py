"""Datasets as Lightning data loaders."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NotRequired, TypedDict

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset

from finetune.data.augmentation.device_color import with_colors
from finetune.data.dataset import Sample
from finetune.data.processes import init_worker
from finetune.data.records import DataError
from finetune.data.sampler import EvaluationSampler, TrainSampler
from finetune.data.worker_errors import TrackedDataLoader, tracked_loader


class Batch(TypedDict):
    """Samples of one size: image uint8 (B, C, H, W), mask uint8 (B, H, W) or (B, K, H, W), index int64 (B,).

    `color_matrix`, int32 (B, C, C + 1), may be there until the batch is on its device; see `SegmentationDataset`.
    """

    image: Tensor
    mask: Tensor
    index: Tensor
    color_matrix: NotRequired[Tensor]


class DataPosition(NamedTuple):
    """Finished epochs, and finished batches of this process in the current one."""

    epoch: int = 0
    batches: int = 0


class SegmentationData(pl.LightningDataModule):
    """Training batches of one size; evaluation batches in which every image keeps its own size.

    The samplers shard over the trainer's ranks themselves, so the trainer needs `use_distributed_sampler=False`.

    Args:
        train: dataset that takes a `SampleKey`; its transform must return images of one size.
        val: dataset for validation.
        test: dataset for test; None if there is none.
        batch_size: samples per process.
        num_workers: loading processes, each with one torch thread; 0 loads in the training process.
        seed: of the training order.
        pin_memory: whether batches are page-locked; None if there is a GPU.
        class_shares: fraction of the training pixels of each class, as far as it is known, for messages.
    """

    def __init__(
        self,
        train: Dataset[Sample],
        val: Dataset[Sample],
        test: Dataset[Sample] | None = None,
        batch_size: int = 8,
        num_workers: int = 0,
        seed: int = 0,
        pin_memory: bool | None = None,
        class_shares: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: expected 1 or more.")
        if num_workers < 0:
            raise ValueError(f"num_workers={num_workers}: expected 0 or more.")
        self.train = train
        self.val = val
        self.test = test
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.pin_memory = torch.cuda.is_available() if pin_memory is None else pin_memory
        self.class_shares = dict(class_shares or {})
        self._position = DataPosition()

    def state_dict(self) -> dict[str, int]:
        """Return the position of the training in the data; Lightning puts it into every checkpoint."""
        assert self.trainer is not None
        loop = self.trainer.fit_loop
        begun, batches = loop.epoch_progress.current.ready, loop.epoch_loop.batch_progress.current.ready
        # from the epochs begun: Lightning counts an epoch as completed even if the training ended in the middle of it
        inside = batches < self.trainer.num_training_batches
        position = DataPosition(max(begun - 1, 0), batches) if inside else DataPosition(begun)
        return {**position._asdict(), **self._amounts()}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Resume after the last batch that was trained on.

        Raises:
            DataError: the number of images, in all or in a step of all processes, has changed; so would their order.
        """
        if self.trainer is None or self.trainer.state.fn != "fit":
            return  # a checkpoint may be evaluated on any images
        amounts = self._amounts()
        if different := {name: count for name, count in amounts.items() if state_dict[name] != count}:
            changes = ", ".join(f"{count} {name} instead of {state_dict[name]}" for name, count in different.items())
            raise DataError(
                f"the training cannot resume with {changes}: its epochs would have other steps. Set data.batch_size so "
                f"that all devices together have as many images as before, and give the same images; or start a new "
                f"training from its weights."
            )
        self._position = DataPosition(state_dict["epoch"], state_dict["batches"])
        if self.trainer.train_dataloader is not None:
            # some strategies restore after the loader has been built and perhaps started; Lightning has no public way
            # to start it again
            self._move_to_position(self.trainer.train_dataloader.sampler)
            iter(self.trainer.fit_loop._data_fetcher)  # type: ignore[arg-type]  # set together with the loader

    def _amounts(self) -> dict[str, int]:
        images: int = len(self.train)  # type: ignore[arg-type]  # sized
        return {"images": images, "images in a step": self.batch_size * self._rank()[1]}

    def _move_to_position(self, sampler: TrainSampler) -> None:
        # Lightning may make several loaders before the first batch; those of later epochs start with a whole epoch
        epoch = self.trainer.current_epoch if self.trainer is not None else 0
        position = max(self._position, DataPosition(epoch), key=lambda position: position.epoch)
        sampler.epoch, sampler.start = position.epoch, position.batches * self.batch_size

    def setup(self, stage: str) -> None:
        """Forget the position of an earlier training, also of one that an error ended."""
        self._position = DataPosition()

    def train_dataloader(self) -> DataLoader[Sample]:
        """Return shuffled batches, equally many on every rank."""
        rank, world_size = self._rank()
        weights = getattr(self.train, "weights", None)  # a dataset of one's own may have none
        images: int = len(self.train)  # type: ignore[arg-type]  # sized
        repeats = math.ceil(self.batch_size * world_size / images)  # so that few images make a batch, by several crops
        sampler = TrainSampler(images, self.seed, rank, world_size, weights=weights, repeats=repeats)
        self._move_to_position(sampler)
        return tracked_loader(
            self.train,
            batch_size=self.batch_size,
            sampler=sampler,
            drop_last=True,  # a last batch of one image would have no variance for batch norm
            collate_fn=collate,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=self.pin_memory,
            worker_init_fn=init_worker,
        )

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Change the colors of training images on their device, if that is left to it."""
        batch = with_colors(batch) if isinstance(batch, dict) else batch
        if self.trainer is None:
            return batch
        # Lightning calls this hook of the data instead of that of a task of one's own
        return self.trainer.lightning_module.on_after_batch_transfer(batch, dataloader_idx)

    def val_dataloader(self) -> DataLoader[Sample]:
        """Return batches with every validation image exactly once over all ranks."""
        return self._evaluation(self.val)

    def test_dataloader(self) -> DataLoader[Sample]:
        """Return batches with every test image exactly once over all ranks."""
        if self.test is None:
            raise DataError("there is no test split. Give images the split test, or set data.test above 0.")
        return self._evaluation(self.test)

    def _evaluation(self, dataset: Dataset[Sample]) -> DataLoader[Sample]:
        sampler = EvaluationSampler(len(dataset), *self._rank(), self.batch_size)  # type: ignore[arg-type]  # sized
        # An empty shard gets one empty batch: Lightning skips a loop without batches and its hooks, and the other ranks
        # would wait for this one in their first collective.
        batches = list(BatchSampler(sampler, self.batch_size, drop_last=False)) or [[]]
        return tracked_loader(
            dataset,
            batch_sampler=batches,
            collate_fn=collate_by_size,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=self.pin_memory,
            worker_init_fn=init_worker,
        )

    def on_exception(self, exception: BaseException) -> None:
        """Name the file that a worker died on; torch raises the error at any point of the training."""
        assert self.trainer is not None
        for loader in (self.trainer.train_dataloader, self.trainer.val_dataloaders, self.trainer.test_dataloaders):
            if isinstance(loader, TrackedDataLoader):
                loader.describe_worker_death(exception)

    def _rank(self) -> tuple[int, int]:
        """Return the rank of this process and the number of processes."""
        if self.trainer is None:
            return 0, 1
        world_size = self.trainer.world_size
        # Lightning has no public attribute for this; its own sampler on top of ours would shard the shards
        if world_size > 1 and self.trainer._accelerator_connector.use_distributed_sampler:
            raise ValueError(
                f"the trainer has {world_size} processes and use_distributed_sampler=True, but this data shards "
                "itself. Pass use_distributed_sampler=False to the Trainer."
            )
        return self.trainer.global_rank, world_size


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples of one size.

    Raises:
        DataError: the sizes differ.
    """
    sizes = sorted({tuple(sample["mask"].shape[-2:]) for sample in samples})
    if len(sizes) > 1:
        raise DataError(
            f"training images of different sizes (height, width) cannot be one batch: {sizes}. "
            "Set augment.crop to one size, or data.batch_size=1."
        )
    batch: Batch = {
        "image": torch.stack([sample["image"] for sample in samples]),
        "mask": torch.stack(_equally_deep([sample["mask"] for sample in samples])),
        "index": torch.tensor([sample["index"] for sample in samples]),
    }
    if "color_matrix" in samples[0]:
        batch["color_matrix"] = torch.stack([sample["color_matrix"] for sample in samples])
    return batch


def _equally_deep(masks: list[Tensor]) -> list[Tensor]:
    """Return masks (K, H, W) with planes of zeros after those that have fewer than others; planes of objects do."""
    depth = max(len(mask) for mask in masks)
    if masks[0].dim() == 2 or all(len(mask) == depth for mask in masks):
        return masks
    return [torch.cat([mask, mask.new_zeros(depth - len(mask), *mask.shape[1:])]) for mask in masks]


def collate_by_size(samples: Sequence[Sample]) -> list[Batch]:
    """Stack samples of equal size, so that each is scored at its own size, in the order of first appearance."""
    groups: dict[tuple[int, ...], list[Sample]] = {}
    for sample in samples:
        groups.setdefault(tuple(sample["mask"].shape[-2:]), []).append(sample)
    return [collate(group) for group in groups.values()]
