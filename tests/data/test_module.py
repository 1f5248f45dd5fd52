import subprocess
import sys
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch

from finetune.data.augmentation.transforms import Augment
from finetune.data.module import SegmentationData, collate, collate_by_size
from finetune.data.records import DataError
from tests.synthetic import SyntheticDataset


class Sizes(SyntheticDataset):
    """Images of two sizes, taking turns."""

    def __init__(self, count: int, split: str = "train") -> None:
        super().__init__(count, [(40, 40), (32, 48)], split=split)


def data(train: int = 10, val: int = 5, rank: int = 0, world_size: int = 1, **options: object) -> SegmentationData:
    module = SegmentationData(SyntheticDataset(train, 32), Sizes(val, split="val"), **options)
    connector = SimpleNamespace(use_distributed_sampler=False)
    options = {"global_rank": rank, "world_size": world_size, "current_epoch": 0}
    module.trainer = SimpleNamespace(**options, _accelerator_connector=connector)
    return module


def seen(loader: object) -> list[int]:
    return [index for batch in loader for group in batch for index in group["index"].tolist()]


def test_training_batches_are_full_also_if_there_are_fewer_images():
    assert [len(batch["index"]) for batch in data(10, batch_size=4).train_dataloader()] == [4, 4]
    assert [len(batch["index"]) for batch in data(8, batch_size=4).train_dataloader()] == [4, 4]
    for count in (1, 3):
        assert [len(batch["index"]) for batch in data(count, batch_size=4).train_dataloader()] == [4]
    batch = next(iter(data(4, batch_size=4).train_dataloader()))
    assert batch["image"].shape == (4, 3, 32, 32)
    assert (batch["mask"].shape, batch["mask"].dtype) == ((4, 32, 32), torch.uint8)
    assert batch["index"].dtype == torch.int64


@pytest.mark.parametrize("images", [3, 12])
def test_two_ranks_train_on_the_batches_of_one(images: int):
    one = [sorted(batch["index"].tolist()) for batch in data(images, batch_size=4).train_dataloader()]
    ranks = [data(images, batch_size=2, rank=rank, world_size=2).train_dataloader() for rank in range(2)]
    two = [sorted(a["index"].tolist() + b["index"].tolist()) for a, b in zip(*ranks, strict=True)]
    assert one == two


def test_an_image_that_fills_a_batch_gives_other_crops():
    module = data(1, batch_size=4)
    module.train = SyntheticDataset(1, 32)
    module.train.transform = Augment(crop=16)
    images = next(iter(module.train_dataloader()))["image"]
    assert len({tuple(image.flatten().tolist()) for image in images}) == 4


@pytest.mark.parametrize("world_size", [1, 2, 4, 7])
def test_evaluation_sees_every_image_once_at_its_own_size(world_size):
    loaders = [data(rank=r, world_size=world_size, batch_size=3).val_dataloader() for r in range(world_size)]
    assert sorted(index for loader in loaders for index in seen(loader)) == list(range(5))
    assert all(len(list(loader)) >= 1 for loader in loaders)  # an empty shard still has its one, empty, batch
    for group in (group for loader in loaders for batch in loader for group in batch):
        assert all(tuple(group["mask"].shape[1:]) == ((32, 48) if i % 2 else (40, 40)) for i in group["index"].tolist())


def test_samples_are_grouped_by_size():
    groups = collate_by_size([Sizes(5)[index] for index in range(5)])
    assert [group["index"].tolist() for group in groups] == [[0, 2, 4], [1, 3]]
    assert [tuple(group["image"].shape) for group in groups] == [(3, 3, 40, 40), (2, 3, 32, 48)]
    assert torch.equal(groups[1]["mask"][1], Sizes(5)[3]["mask"])
    assert collate_by_size([]) == []


def test_training_images_of_two_sizes_say_what_to_set():
    with pytest.raises(DataError, match=r"\(32, 48\), \(40, 40\).*Set augment.crop"):
        collate([Sizes(2)[index] for index in range(2)])


def test_a_second_sampler_on_top_is_refused():
    module = data(world_size=2)
    module.trainer._accelerator_connector.use_distributed_sampler = True
    with pytest.raises(ValueError, match="use_distributed_sampler=False"):
        module.train_dataloader()


def test_no_test_split_and_no_batch_size_are_explained():
    with pytest.raises(DataError, match="no test split"):
        data().test_dataloader()
    with pytest.raises(ValueError, match="batch_size=0"):
        data(batch_size=0)


class Recorder(pl.LightningModule):
    """Trains nothing; notes what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.batches: list[tuple[int, torch.Tensor]] = []
        self.scored: list[int] = []

    def training_step(self, batch, _):
        self.batches.append((self.current_epoch, batch["image"]))
        return self.weight * 0

    def validation_step(self, batch, _):
        self.scored += [index for group in batch for index in group["index"].tolist()]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def quick_trainer(**options: object) -> pl.Trainer:
    shown = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    return pl.Trainer(**dict.fromkeys(shown, False), accelerator="cpu", num_sanity_val_steps=0, **options)


@pytest.mark.parametrize("workers", [0, 2])
def test_lightning_gets_the_samples_of_each_epoch_whatever_the_workers(workers):
    train = SyntheticDataset(6, 48, transform=Augment(32, rotation=10))
    module = SegmentationData(train, SyntheticDataset(3, 32, split="val"), batch_size=3, num_workers=workers, seed=4)
    model = Recorder()
    quick_trainer(max_epochs=2).fit(model, module)
    expected = []
    for epoch in range(2):
        sampler = SegmentationData(train, train, batch_size=3, seed=4).train_dataloader().sampler
        sampler.set_epoch(epoch)
        keys = list(sampler)
        expected += [(epoch, torch.stack([train[key]["image"] for key in keys[b : b + 3]])) for b in (0, 3)]
    assert [epoch for epoch, _ in model.batches] == [epoch for epoch, _ in expected]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(model.batches, expected, strict=True))
    assert model.scored == [0, 1, 2] * 2


def test_a_training_starts_with_the_first_batch_also_after_one_that_was_resumed_and_failed():
    module = data(12, batch_size=3)
    module.trainer.state, module.trainer.train_dataloader = SimpleNamespace(fn="fit"), None
    module.load_state_dict({"epoch": 0, "batches": 2, "images": 12, "images in a step": 3})
    assert module.train_dataloader().sampler.start == 6
    module.setup("fit")  # of the next training; an error has left out `teardown`
    assert module.train_dataloader().sampler.start == 0


@pytest.mark.parametrize(("steps", "place"), [(-1, (3, 0)), (4, (2, 0)), (5, (2, 1))])
def test_the_position_in_the_data_after_a_training_is_after_the_last_batch(steps, place):
    module = data(6, batch_size=3)
    quick_trainer(max_epochs=3, max_steps=steps).fit(Recorder(), module)
    state = module.state_dict()
    assert (state["epoch"], state["batches"]) == place


def test_the_package_does_not_import_lightning():
    code = "import sys, finetune.data; assert 'lightning' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
