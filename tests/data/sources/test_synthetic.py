from collections import Counter

import pytest
import torch

from finetune.data import CLASS_NAMES, SegmentationDataset, SyntheticSource
from finetune.data.records import Record


def images(source: SyntheticSource, split: str = "train") -> list[torch.Tensor]:
    return [record.image.read() for record in source.records() if record.split == split]


def test_a_larger_count_only_adds_images():
    few, many = SyntheticSource(3, 48).records(), SyntheticSource(9, 48).records()
    assert few[:3] == many[:3]
    assert all(
        torch.equal(a, b)
        for a, b in zip(images(SyntheticSource(3, 48)), images(SyntheticSource(9, 48))[:3], strict=True)
    )


def test_seeds_and_splits_share_no_image():
    first = images(SyntheticSource(8, 48))[:2]
    for others in (images(SyntheticSource(8, 48, seed=1))[:2], images(SyntheticSource(8, 48), "val")):
        assert not any(torch.equal(a, b) for a, b in zip(first, others, strict=True))


def test_validation_and_test_have_a_quarter_of_the_images_each():
    records = SyntheticSource(9, 32).records()
    assert Counter(record.split for record in records) == {"train": 9, "val": 2, "test": 2}
    assert len({(record.split, record.name) for record in records}) == 13


def test_image_and_target_belong_together_whatever_was_read_in_between():
    records = SyntheticSource(40, 32).records()
    alone = [(record.image.read(), record.target.read()) for record in records]
    targets = [record.target.read() for record in records]
    assert all(torch.equal(target, pair[1]) for target, pair in zip(targets, alone, strict=True))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_have_the_channels_that_are_asked_for(channels):
    record = SyntheticSource(1, (40, 56)).records()[0]
    image, target = record.image.read(channels), record.target.read()
    assert (image.shape, image.dtype) == ((channels, 40, 56), torch.uint8)
    assert (target.shape, target.dtype) == ((40, 56), torch.uint8)
    assert image.is_contiguous()
    assert channels != 4 or (torch.equal(image[:3], record.image.read()) and (image[3] == 255).all())


def test_a_changed_image_does_not_change_the_next_reading():
    record = SyntheticSource(1, 32).records()[0]
    before = record.image.read().clone()
    record.image.read().zero_()
    record.target.read().fill_(9)
    assert torch.equal(record.image.read(), before)
    assert record.target.read().max() < len(CLASS_NAMES)


def test_records_have_no_files_but_a_name_for_messages():
    record: Record = SyntheticSource(1, 32).records()[0]
    assert record.paths == ()
    assert record.description == "synthetic image 'train_00000' or its mask 'train_00000'"
    assert SegmentationDataset([record])[0]["index"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "count=0: expected 1"),
        ({"size": 8}, "size=8: expected 16"),
        ({"size": [64, 64, 64]}, r"size=\[64, 64, 64\]: expected"),
        ({"size": "big"}, "size=big: expected"),
        ({"size": [64, True]}, "size=.*: expected"),
        ({"seed": -1}, "seed=-1"),
        ({"ignore_index": 256}, "ignore_index=256"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SyntheticSource(**options)
