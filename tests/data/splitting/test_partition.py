import random
from collections import Counter
from hashlib import sha256

import pytest
import torch

from finetune.data.splitting.partition import class_labels, fill, spread, stratify, units


def loads(sizes: list[int], parts: list[int], count: int) -> list[int]:
    return [sum(size for size, p in zip(sizes, parts, strict=True) if p == part) for part in range(count)]


def test_units_are_groups_and_single_images_in_the_order_of_their_hash():
    # by sha256sum: 0/c, 0/b, 0/a is the order of the digests
    assert units(["a", "b", "c"], {}, 0) == (["c", "b", "a"], [("c",), ("b",), ("a",)])
    assert units(["y", "b", "x", "y"], {"x": "c", "y": "c"}, 0) == (["c", "b"], [["x", "y"], ["b"]])
    names = [f"image {number}" for number in range(500)]
    assert units(names, {}, 7)[0] == sorted(names, key=lambda name: sha256(f"7/{name}".encode()).digest())


@pytest.mark.parametrize(
    ("sizes", "wanted", "parts"),
    [
        ([1, 1, 1, 1, 1], [1, 2, 2], [0, 1, 1, 2, 2]),
        ([3, 3, 3, 3], [4, 8], [0, 1, 1, 1]),  # a second group would be farther from 4 than one is
        ([9, 2, 2, 9], [3, 19], [1, 0, 1, 1]),  # 2 and 4 are equally near to 3
        ([4, 1, 9], [3, 11], [0, 1, 1]),  # the first that brings the part nearer is taken, although it is too large
        ([10, 10, 10], [2, 2, 26], [0, 1, 2]),  # all too large, but no part stays empty
        ([100, 1, 1], [15, 15, 72], [2, 0, 1]),
    ],
)
def test_parts_are_filled_in_order_as_near_to_their_size_as_whole_groups_allow(sizes, wanted, parts):
    assert fill(sizes, wanted) == parts


def test_units_are_spread_over_parts_of_about_equal_size():
    assert spread([1, 1, 1, 1, 1], 2) == [0, 1, 0, 1, 0]
    assert spread([1, 5, 3, 2, 1], 2) == [0, 0, 1, 1, 1]  # 5 | 3 2, then 1 to each


def test_the_rarest_label_is_dealt_first():
    # 6 images: two have the label 1, all have the label 0. Each half lacks one image with label 1.
    labels = torch.tensor([[1, 1], [1, 1], [1, 0], [1, 0], [1, 0], [1, 0]])
    assert stratify([1] * 6, labels, [3, 3]) == [0, 1, 0, 1, 0, 1]
    # thirds: the part of 4 lacks 4/3 of label 1, then 1/3; the part of 2 lacks 2/3
    assert stratify([1] * 6, labels, [2, 4]) == [1, 0, 1, 1, 0, 1]


def test_units_without_labels_and_empty_parts_are_dealt_too():
    assert sorted(stratify([1, 1, 1, 1], torch.zeros(4, 2, dtype=torch.int64), [1, 3])) == [0, 1, 1, 1]
    assert sorted(stratify([10, 10, 10], torch.ones(3, 1, dtype=torch.int64), [1, 1, 28])) == [0, 1, 2]


@pytest.mark.parametrize("seed", range(30))
def test_every_part_gets_units_and_about_its_size(seed):
    draw = random.Random(seed)
    count = draw.randint(2, 5)
    sizes = [draw.randint(1, 9) for _ in range(draw.randint(count, 40))]
    labels = torch.tensor([[draw.randint(0, size) for _ in range(3)] for size in sizes])
    total = sum(sizes)
    wanted = [total // 10 or 1] * (count - 1)
    wanted.append(total - sum(wanted))
    even = [total // count + (part < total % count) for part in range(count)]
    for parts, goal in (
        (fill(sizes, wanted), wanted),
        (spread(sizes, count), even),
        (stratify(sizes, labels, even), even),
    ):
        found = loads(sizes, parts, count)
        assert len(parts) == len(sizes)
        assert min(found) > 0
        assert all(abs(have - want) <= 9 * count for have, want in zip(found, goal, strict=True))
    ones = [1] * len(sizes)
    single = [len(ones) // count + (part < len(ones) % count) for part in range(count)]
    assert loads(ones, stratify(ones, labels.clamp(max=1), single), count) == single
    assert sorted(loads(ones, spread(ones, count), count), reverse=True) == single


def test_labels_are_the_presence_of_a_class_and_a_large_share_of_it():
    pixels = {"a": [90, 10, 0], "b": [60, 40, 0], "c": [10, 80, 10]}
    pixels = {name: torch.tensor(counts) for name, counts in pixels.items()}
    # shares of class 0 are .9 .6 .1, so a has much; of class 1 .1 .4 .8, so c has; the one share of class 2 is no more
    assert class_labels([["a"], ["b"], ["c"]], pixels).tolist() == [
        [1, 1, 0, 1, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 1, 0],
    ]
    assert class_labels([["a", "b"], ["c"]], pixels).tolist() == [[2, 2, 0, 1, 0, 0], [1, 1, 1, 0, 1, 0]]
    assert class_labels([["d"]], {"d": torch.zeros(3, dtype=torch.int64)}).sum() == 0


def test_rare_classes_are_spread_better_than_by_chance():
    draw = random.Random(0)
    names = [f"{n}" for n in range(200)]
    # classes in 100 %, 50 %, 10 % and 3 % of the images
    pixels = {
        name: torch.tensor([draw.randint(1, 999) if draw.random() < rate else 0 for rate in (1, 0.5, 0.1, 0.03)])
        for name in names
    }
    labels = class_labels([[name] for name in names], pixels)
    ordered, members = units(names, {}, 0)

    def worst(parts: list[int]) -> list[int]:
        """Return the largest distance from a fifth of the images with each label, over five folds."""
        folds = [Counter(dict.fromkeys(range(8), 0)) for _ in range(5)]
        for name, part in zip(ordered, parts, strict=True):
            folds[part].update({label: int(count) for label, count in enumerate(labels[int(name)])})
        totals = labels.sum(0).tolist()
        return [max(abs(5 * fold[label] - totals[label]) for fold in folds) for label in range(8)]

    ours = worst(stratify([1] * 200, class_labels(members, pixels), [40] * 5))
    chance = [worst(spread([1] * 200, 5))]
    for seed in range(20):
        shuffled = [n % 5 for n in range(200)]
        random.Random(seed).shuffle(shuffled)
        chance.append(worst(shuffled))
    average = [sum(column) / len(chance) for column in zip(*chance, strict=True)]
    assert all(have < 5 for have in ours), ours  # in fifths: less than one image from even, which nothing can better
    assert all(mean > 5 for mean in average[1:4]), average
