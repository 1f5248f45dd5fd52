import pytest
import torch

from finetune.data.dataset import SampleKey
from finetune.data.synthetic import CLASS_NAMES, SyntheticDataset, draw
from finetune.data.transforms import Augment


def test_a_picture_is_a_function_of_seed_split_and_index():
    few, many = SyntheticDataset(3, 48), SyntheticDataset(9, 48)
    assert all(torch.equal(few[index]["image"], many[index]["image"]) for index in range(3))
    for other in (SyntheticDataset(3, 48, seed=1), SyntheticDataset(3, 48, split="val")):
        assert not any(torch.equal(few[index]["image"], other[index]["image"]) for index in range(3))


def test_items_look_like_those_of_a_dataset_on_disk():
    item = SyntheticDataset(2, (40, 56))[SampleKey(0, 1)]
    assert (item["image"].shape, item["image"].dtype) == ((3, 40, 56), torch.uint8)
    assert (item["mask"].shape, item["mask"].dtype) == ((40, 56), torch.uint8)
    assert item["index"] == 1
    assert SyntheticDataset(2, split="test").names == ["test_00000", "test_00001"]


def test_every_class_is_drawn_about_equally_often_and_none_is_rare():
    counts = sum(torch.bincount(draw(64, index=index)[1].flatten(), minlength=len(CLASS_NAMES)) for index in range(150))
    shares = counts / counts.sum()
    assert len(shares) == len(CLASS_NAMES)
    assert 0.5 < shares[0] < 0.85
    assert shares[1:].min() > 0.02


def test_color_does_not_tell_the_class():
    means = {label: [] for label in range(len(CLASS_NAMES))}
    for index in range(200):
        image, mask = draw(48, index=index)
        for label in mask.unique().tolist():
            means[label].append(image[:, mask == label].float().mean(1))
    centers = torch.stack([torch.stack(values).mean(0) for values in means.values()])
    spread = torch.cat([torch.stack(values) for values in means.values()]).std(0)
    assert ((centers - centers.mean(0)).abs() < 0.5 * spread).all()


def test_the_transform_sees_the_epoch():
    dataset = SyntheticDataset(2, 64, transform=Augment(32))
    assert torch.equal(dataset[SampleKey(0, 1)]["image"], dataset[1]["image"])
    assert not torch.equal(dataset[SampleKey(1, 1)]["image"], dataset[1]["image"])


def test_it_can_be_looped_over_and_wrong_arguments_are_errors():
    assert len(list(SyntheticDataset(3, 32))) == 3
    with pytest.raises(ValueError, match="split='training'"):
        SyntheticDataset(split="training")
    with pytest.raises(ValueError, match="count=0"):
        SyntheticDataset(0)
