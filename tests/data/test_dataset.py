from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from finetune.data.augmentation.mix import Mix
from finetune.data.augmentation.transforms import Augment
from finetune.data.dataset import SampleKey, SegmentationDataset, counted_generator
from finetune.data.files import ImageFile, MaskFile
from finetune.data.images.reading import read_image
from finetune.data.masks.reading import read_mask
from finetune.data.records import DataError, Record
from finetune.data.sampler import TrainSampler


def file_record(image: Path, mask: Path) -> Record:
    return Record(image.stem, ImageFile(image), MaskFile(mask), "train")


@pytest.fixture
def records(write):
    rng = torch.Generator().manual_seed(0)
    return [
        file_record(
            write(f"images/{n}.png", torch.randint(0, 256, (20, 24, 3), generator=rng, dtype=torch.uint8).numpy()),
            write(f"masks/{n}.png", torch.randint(0, 3, (20, 24), generator=rng, dtype=torch.uint8).numpy()),
        )
        for n in range(6)
    ]


def test_items_are_the_decoded_files(records):
    dataset = SegmentationDataset(records)
    item = dataset[4]
    assert torch.equal(item["image"], read_image(records[4].image.path))
    assert torch.equal(item["mask"], read_mask(records[4].target.path))
    assert item["index"] == 4
    assert (len(dataset), list(dataset.records)) == (6, records)


def test_a_sample_is_a_function_of_seed_epoch_and_index(records):
    def sample(epoch: int, seed: int = 0) -> torch.Tensor:
        return SegmentationDataset(records, transform=Augment(16), seed=seed)[SampleKey(epoch, 2)]["image"]

    assert torch.equal(sample(3), sample(3))
    assert not torch.equal(sample(3), sample(4))
    assert not torch.equal(sample(0, seed=3), sample(3, seed=0))
    dataset = SegmentationDataset(records, transform=Augment(16))
    assert torch.equal(dataset[2]["image"], sample(0))


def test_workers_do_not_change_a_sample(records):
    dataset = SegmentationDataset(records, transform=Augment(16, rotation=10, brightness=0.3))

    def epoch(workers: int) -> list[dict[str, torch.Tensor]]:
        sampler = TrainSampler(len(dataset))
        sampler.set_epoch(5)
        return list(DataLoader(dataset, batch_size=2, sampler=sampler, num_workers=workers))

    for here, there in zip(epoch(0), epoch(2), strict=True):
        assert all(torch.equal(here[name], there[name]) for name in ("image", "mask", "index"))


def test_generators_differ_wherever_a_number_does():
    streams = {
        tuple(torch.rand(2, generator=counted_generator(*key)).tolist())
        for key in torch.cartesian_prod(*[torch.arange(6)] * 3).tolist()
    }
    assert len(streams) == 6**3


def test_bad_records_are_explained(write):
    with pytest.raises(DataError, match="at least one record"):
        SegmentationDataset([])
    with pytest.raises(DataError, match="has no mask to train"):
        SegmentationDataset([Record("a", ImageFile(write("a.png")))])[0]
    with pytest.raises(DataError, match=r"image '.*b\.png' is \(8, 10\) and its mask '.*m\.png' \(10, 8\)"):
        SegmentationDataset([file_record(write("b.png"), write("m.png", size=(10, 8)))])[0]


def test_repetitions_of_a_sample_are_transformed_anew(records):
    dataset = SegmentationDataset(records, transform=Augment(16))
    first, again = dataset[SampleKey(0, 0)]["image"], dataset[SampleKey(0, 0, 1)]["image"]
    assert not torch.equal(first, again)
    assert torch.equal(again, dataset[SampleKey(0, 0, 1)]["image"])
    assert torch.equal(first, dataset[0]["image"])


def test_an_image_of_weight_0_is_mixed_with_no_other(records):
    weighted = [replace(record, weight=float(index in (1, 4))) for index, record in enumerate(records)]
    read: list[int] = []

    class Reading(SegmentationDataset):
        def _transformed(self, index, generator):
            read.append(index)
            return super()._transformed(index, generator)

    dataset = Reading(weighted, transform=Augment(16), mix=Mix(cutmix=1.0))
    for epoch in range(20):
        dataset[SampleKey(epoch, 1)]
    assert set(read) <= {1, 4}
    assert 4 in read
