import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from finetune.data.augmentation.mix import Mix, classmix, copy_paste, cutmix, mosaic
from finetune.data.augmentation.transforms import Augment
from finetune.data.dataset import SampleKey, SegmentationDataset
from finetune.data.records import DataError
from finetune.data.sampler import TrainSampler
from tests.synthetic import SyntheticDataset, synthetic_records

SIZE = (24, 32)


def sample(value: int, target: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a sample whose image has one value everywhere."""
    labels = torch.full(SIZE, value % 5, dtype=torch.uint8) if target is None else target
    return torch.full((2, *SIZE), value, dtype=torch.uint8), labels


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def stacked(target: torch.Tensor) -> torch.Tensor:
    """Return class indices as a channel for each of the classes 0 to 4."""
    channels = torch.stack([target == k for k in range(5)]).byte()
    return channels.masked_fill(target == 255, 255)


def test_cutmix_takes_a_rectangle_from_the_partner() -> None:
    image, target = cutmix(sample(10), sample(21), area=0.25, ratio=1.0, position=(1.0, 0.5))
    inside = np.zeros(SIZE, dtype=bool)
    inside[12:, 8:24] = True
    assert np.array_equal(image.numpy(), np.broadcast_to(np.where(inside, 21, 10), (2, *SIZE)))
    assert np.array_equal(target.numpy(), np.where(inside, 1, 0))


def test_mosaic_joins_the_parts_of_four_samples_at_their_own_places() -> None:
    ramps = [(torch.arange(32, dtype=torch.uint8).expand(1, *SIZE) + 50 * k, sample(k)[1]) for k in range(4)]
    image, target = mosaic(ramps, (0.25, 0.75))
    part = 2 * (np.arange(24)[:, None] >= 6) + (np.arange(32) >= 24)
    assert np.array_equal(target.numpy(), part)
    assert np.array_equal(image[0].numpy(), np.arange(32) + 50 * part)


TARGET = torch.zeros(SIZE, dtype=torch.uint8)
TARGET[2:6, 3:9] = 1
TARGET[4:6, 5:9] = 2  # what is left of class 1 is an L
TARGET[20:, 28:] = 3
TARGET[10:12] = 255


def test_classmix_pastes_half_of_the_classes_pixel_by_pixel() -> None:
    chosen = set()
    for seed in range(40):
        image, target = classmix(sample(10), sample(20, TARGET), generator(seed))
        pasted = image[0] == 20
        classes = set(TARGET[pasted].tolist())
        assert torch.equal(pasted, torch.isin(TARGET, torch.tensor(list(classes))))
        assert torch.equal(target, torch.where(pasted, TARGET, 0))
        assert len(classes) == 2
        assert 255 not in classes
        chosen.add(tuple(sorted(classes)))
    assert len(chosen) == 6  # all pairs of four classes


def test_copy_paste_moves_the_pixels_of_one_class() -> None:
    shape = (TARGET == 1)[2:6, 3:9]
    image, target = copy_paste(sample(10, TARGET * 0 + 4), sample(20, TARGET), 0.5, (1.0, 0.5))
    expected = torch.zeros(SIZE, dtype=torch.bool)
    label = int(target[target != 4][0])
    assert label in (1, 2, 3)
    box = {1: (4, 6), 2: (2, 4), 3: (4, 4)}[label]
    part = shape if label == 1 else torch.ones(box, dtype=torch.bool)
    top, left = 24 - box[0], round((32 - box[1]) / 2)
    expected[top : top + box[0], left : left + box[1]] = part
    assert torch.equal(image[0] == 20, expected)
    assert torch.equal(target == label, expected)
    labels = {int(copy_paste(sample(0), sample(1, TARGET), k / 50, (0, 0))[1].max()) for k in range(50)}
    assert labels == {1, 2, 3}  # never the background


def test_copy_paste_of_a_sample_with_one_class_leaves_the_other_alone() -> None:
    first = sample(10)
    assert copy_paste(first, sample(20), 0.5, (0, 0)) == first
    everything_ignored = sample(20, torch.full(SIZE, 255, dtype=torch.uint8))
    assert copy_paste(first, everything_ignored, 0.5, (0, 0)) == first


@pytest.mark.parametrize("kind", ["cutmix", "classmix", "copy_paste", "mosaic"])
def test_channels_of_classes_are_mixed_like_class_indices(kind: str) -> None:
    mix = Mix(**{kind: 1.0})
    others = [sample(20 + k, TARGET.roll(5 * k, 1)) for k in range(3)]
    for seed in range(5):
        results = []
        for convert in (torch.clone, stacked):
            first, *queue = [(image, convert(target)) for image, target in [sample(10, TARGET.flip(0)), *others]]
            results.append(mix(first, iter(queue).__next__, generator(seed)))
        if kind != "copy_paste":  # there, the most frequent class is left out of class indices only
            assert torch.equal(results[0][0], results[1][0])
            assert torch.equal(stacked(results[0][1]), results[1][1])
        assert results[1][1].shape == (5, *SIZE)


def test_each_kind_is_the_function_of_its_name_with_the_numbers_that_are_drawn() -> None:
    first, others = sample(10, TARGET.flip(0)), [sample(20 + k, TARGET.roll(5 * k, 1)) for k in range(3)]
    for seed in range(5):
        draws = generator(seed)
        _, area, ratio, y, x = torch.rand(5, generator=draws, dtype=torch.float64).tolist()
        expected = {
            "cutmix": cutmix(first, others[0], 0.1 + 0.4 * area, 4**ratio / 2, (y, x)),
            "classmix": classmix(first, others[0], draws),
            "copy_paste": copy_paste(first, others[0], ratio, (y, x)),
            "mosaic": mosaic([first, *others], (0.25 + y / 2, 0.25 + x / 2)),
        }
        for kind, (image, target) in expected.items():
            found = Mix(**{kind: 1.0})(first, iter(others).__next__, generator(seed))
            assert torch.equal(found[0], image), kind
            assert torch.equal(found[1], target), kind
        assert len({tuple(image.flatten().tolist()) for image, _ in expected.values()}) == 4


def test_kinds_come_as_often_as_asked_and_inputs_are_left_alone() -> None:
    one, other = sample(10), sample(20, TARGET)
    mix, draws = Mix(cutmix=0.3, mosaic=0.3), generator()
    calls: list[int] = []
    unchanged = 0
    for _ in range(400):
        calls.append(0)

        def partner() -> tuple[torch.Tensor, torch.Tensor]:
            calls[-1] += 1
            return other

        unchanged += mix(one, partner, draws) is one
    counts = [calls.count(k) / 400 for k in (0, 1, 3)]
    assert np.allclose(counts, [0.4, 0.3, 0.3], atol=0.07)
    assert unchanged == calls.count(0)
    assert torch.equal(one[0], sample(10)[0])
    assert torch.equal(other[1], TARGET)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cutmix": 0.6, "mosaic": 0.6}, r"cutmix=0\.6, .*mosaic=0\.6: expected probabilities that sum to at most 1"),
        ({"classmix": -0.1}, r"classmix=-0\.1"),
        ({"cutmix_area": (0.5, 0.2)}, r"cutmix_area=\(0\.5, 0\.2\)"),
        ({"cutmix_area": (0.5, 1.2)}, "cutmix_area"),
    ],
)
def test_impossible_settings_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mix(**arguments)


ALL = Mix(cutmix=0.25, classmix=0.25, copy_paste=0.25, mosaic=0.25)


def test_probabilities_that_sum_to_one_are_accepted_however_they_are_rounded() -> None:
    assert sum((0.05, 0.55, 0.3, 0.1)) > 1
    Mix(0.05, 0.55, 0.3, 0.1)


def test_a_mixed_sample_is_a_function_of_seed_epoch_and_index() -> None:
    def image(epoch: int, index: int = 2, seed: int = 0, mix: Mix | None = ALL) -> torch.Tensor:
        records = synthetic_records(8, 40)
        return SegmentationDataset(records, transform=Augment(32), seed=seed, mix=mix)[SampleKey(epoch, index)]["image"]

    state = torch.get_rng_state()
    for epoch in range(6):
        assert torch.equal(image(epoch), image(epoch))
    assert not torch.equal(image(0), image(1))
    assert not torch.equal(image(0), image(0, seed=1))
    assert torch.equal(torch.get_rng_state(), state)
    # what is not mixed is the sample without mixing
    assert torch.equal(image(3, mix=Mix()), image(3, mix=None))


def test_partners_are_other_records_transformed_by_random_numbers_of_their_own() -> None:
    dataset = SyntheticDataset(5, 40, transform=Augment(32))
    dataset.mix = Mix(mosaic=1.0)
    read: list[int] = []
    transformed = dataset._transformed

    def note(index: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        read.append(index)
        return transformed(index, generator)

    dataset._transformed = note
    for epoch in range(30):
        dataset[SampleKey(epoch, 3)]
    assert read[::4] == [3] * 30
    assert set(read) - {3} == {0, 1, 2, 4}
    assert 3 not in [index for position, index in enumerate(read) if position % 4]
    read.clear()
    for index in range(5):
        dataset[index]
    steps = [(other - index) % 5 for index in range(5) for other in read[4 * index + 1 : 4 * index + 4]]
    assert len({tuple(steps[3 * index : 3 * index + 3]) for index in range(5)}) > 1
    alone = SyntheticDataset(1, 40, transform=Augment(32))
    alone.mix = Mix(cutmix=1.0)
    assert alone[0]["image"].shape == (3, 32, 32)


def test_samples_of_different_sizes_are_refused() -> None:
    dataset = SyntheticDataset(2, [40, 48], transform=None)
    dataset.mix = Mix(cutmix=1.0)
    with pytest.raises(DataError, match=r"samples of 40x40 and 48x48 .* cannot be mixed\. Set augment\.crop"):
        dataset[0]


def test_workers_do_not_change_a_mixed_sample() -> None:
    dataset = SyntheticDataset(6, 40, transform=Augment(32))
    dataset.mix = ALL

    def epoch(workers: int) -> list[dict[str, torch.Tensor]]:
        sampler = TrainSampler(len(dataset))
        sampler.set_epoch(5)
        return list(DataLoader(dataset, batch_size=2, sampler=sampler, num_workers=workers))

    for here, there in zip(epoch(0), epoch(2), strict=True):
        assert all(torch.equal(here[name], there[name]) for name in ("image", "mask", "index"))
