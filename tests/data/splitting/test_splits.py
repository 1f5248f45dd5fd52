import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from finetune.data.files import ImageFile
from finetune.data.records import DataError, Record
from finetune.data.splitting.splits import choose_fold, cut_validation, seeded_folds, seeded_split

IMAGE = ImageFile(Path("photo.jpg"))
NAMES = [f"image{n}" for n in range(100)]
FROZEN_TEST = (15, 28, 38, 42, 50, 52, 53, 60, 67, 71, 76, 78, 81, 84, 91)  # as version 0.1 split them
FROZEN_VAL = (1, 6, 11, 19, 24, 29, 36, 44, 57, 61, 64, 77, 92, 93, 98)


def grouped(seed: int) -> tuple[list[str], dict[str, str]]:
    """Return names, and groups of one to six of them; some names have no group."""
    draw = random.Random(seed)
    groups = {f"{patient}/{n}": f"p{patient}" for patient in range(30) for n in range(draw.randint(1, 6))}
    return [*groups, *(f"single{n}" for n in range(5))], groups


def pixels_of(names: list[str], rates: tuple[float, ...] = (1, 0.4, 0.1)) -> dict[str, torch.Tensor]:
    draw = random.Random(7)
    return {
        name: torch.tensor([draw.randint(1, 99) if draw.random() < rate else 0 for rate in rates]) for name in names
    }


def test_a_split_depends_on_the_set_of_names_and_the_seed_only():
    split = seeded_split(NAMES, seed=3)
    assert seeded_split(NAMES[::-1] + NAMES[:5], seed=3) == split
    assert seeded_split(NAMES, seed=4) != split
    assert Counter(split.values()) == {"train": 70, "val": 15, "test": 15}


def test_a_split_stays_the_same_between_versions():
    # by sha256sum: 0/c, 0/b, 0/a is the order of the digests
    assert seeded_split(["a", "b", "c"], val=0.3, test=0.3) == {"c": "test", "b": "val", "a": "train"}

    split = seeded_split(NAMES, seed=5)
    assert {name for name in NAMES if split[name] == "test"} == {f"image{n}" for n in FROZEN_TEST}
    assert {name for name in NAMES if split[name] == "val"} == {f"image{n}" for n in FROZEN_VAL}


def test_small_sets_keep_one_image_each_or_say_how_many_are_needed():
    assert sorted(seeded_split(["a", "b", "c"], val=0.01, test=0.01).values()) == ["test", "train", "val"]
    assert sorted(seeded_split(["a", "b"], test=0).values()) == ["train", "val"]
    with pytest.raises(DataError, match="at least 3 are needed"):
        seeded_split(["a", "b"])
    with pytest.raises(DataError, match="at least 2 are needed"):
        seeded_split(["a"], test=0)
    with pytest.raises(DataError, match="at least 3 are needed"):
        seeded_split(["a", "b", "c"], 0.5, 0.4)
    with pytest.raises(ValueError, match="sum below 1"):
        seeded_split(NAMES, val=0.5, test=0.5)


def test_a_val_split_is_cut_from_train_and_from_nothing_else():
    splits = ["train"] * 20 + ["test"] * 9
    records = [Record(f"{number}", IMAGE, None, split) for number, split in enumerate(splits)]
    cut = cut_validation(records, val=0.2, seed=0)
    assert [record.split for record in cut].count("val") == 4
    assert [record.split for record in cut[20:]] == ["test"] * 9
    assert cut == cut_validation(records, val=0.2, seed=0)
    assert cut != cut_validation(records, val=0.2, seed=1)
    assert [replace(record, split="") for record in cut] == [replace(record, split="") for record in records]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("balanced", [False, True])
def test_groups_are_never_on_two_sides_and_sizes_are_about_right(seed, balanced):
    names, groups = grouped(seed)
    pixels = pixels_of(names) if balanced else None
    split = seeded_split(names, seed=seed, groups=groups, pixels=pixels)
    folds = seeded_folds(names, 4, seed, groups, pixels)
    for parts in (split, folds):
        assert parts.keys() == set(names)
        assert len({(groups[name], parts[name]) for name in groups}) == 30
        shuffled = random.Random(seed).sample(names, len(names))
        assert parts == (
            seeded_split(shuffled, seed=seed, groups=groups, pixels=pixels)
            if parts is split
            else seeded_folds(shuffled, 4, seed, groups, pixels)
        )
    counts = Counter(split.values())
    assert abs(counts["val"] - 0.15 * len(names)) <= 3.5  # half of the largest group, and the rounding
    assert abs(counts["test"] - 0.15 * len(names)) <= 3.5
    sizes = Counter(folds.values())
    assert max(sizes.values()) - min(sizes.values()) <= (8 if balanced else 1)
    assert seeded_folds(names, 4, seed + 1, groups, pixels) != folds


def test_too_few_groups_say_how_many_are_needed():
    groups = {f"{n}": f"p{n % 2}" for n in range(10)}
    with pytest.raises(
        DataError, match=r"^2 groups of 10 images cannot .* at least 3 are .* data\.group=null to split each"
    ):
        seeded_split(list(groups), groups=groups)
    assert Counter(seeded_split(list(groups), test=0, groups=groups).values()) == {"train": 5, "val": 5}
    with pytest.raises(DataError, match="3 folds of 2 groups: expected 2 folds or more, with one of them in each"):
        seeded_folds(list(groups), 3, 0, groups)


def test_balanced_splits_keep_their_exact_sizes_and_spread_a_rare_class():
    pixels = {name: torch.tensor([50, 50 * (n < 8)]) for n, name in enumerate(NAMES)}
    rare = set(NAMES[:8])
    splits = [seeded_split(NAMES, 0.25, 0.25, seed, pixels=pixels) for seed in range(10)]
    assert all(Counter(split.values()) == {"train": 50, "val": 25, "test": 25} for split in splits)
    assert all(Counter(split[name] for name in rare) == {"train": 4, "val": 2, "test": 2} for split in splits)
    assert len({tuple(split.items()) for split in splits}) == 10
    chance = [seeded_split(NAMES, 0.25, 0.25, seed) for seed in range(10)]
    assert {Counter(split[name] for name in rare)["val"] for split in chance} > {2}


def test_a_fold_of_each_group_is_in_the_order_of_their_names():
    groups = {f"{n}": f"p{n % 3}" for n in range(9)}
    assert seeded_folds(list(groups), None, 5, groups) == {f"{n}": n % 3 for n in range(9)}


@pytest.mark.parametrize("count", [2, 5, None])
def test_every_image_but_those_of_test_is_in_val_once(count):
    names, groups = grouped(0)
    given = ["test" if n % 9 == 0 else "val" if n % 9 == 1 else "train" for n in range(len(names))]
    records = [Record(name, IMAGE, None, split, groups.get(name, "")) for name, split in zip(names, given, strict=True)]
    number = count or len({record.group or record.name for record in records if record.split != "test"})
    runs = [choose_fold(records, count, fold, seed=3) for fold in range(number)]
    for index, record in enumerate(records):
        times = Counter(run[index].split for run in runs)
        assert times == ({"test": number} if record.split == "test" else {"val": 1, "train": number - 1})
    for run in runs:
        sides = {(record.group, record.split) for record in run if record.group and record.split != "test"}
        assert len({group for group, _ in sides}) == len(sides)
    with pytest.raises(
        DataError, match=rf"data\.fold={number}: expected 0 to {number - 1}, as there are {number} folds"
    ):
        choose_fold(records, count, number, seed=3)


def test_images_of_one_name_cannot_be_joined_in_folds():
    records = [Record("a", IMAGE, None, split) for split in ("train", "val", "test")]
    with pytest.raises(DataError, match=r"data\.folds joins train and val, but both have images called a"):
        choose_fold(records, 2, 0, 0)


def test_a_val_split_is_cut_by_group():
    records = [Record(f"{n}", IMAGE, None, "test" if n > 29 else "train", f"p{n // 5}") for n in range(35)]
    cut = cut_validation(records, val=0.2, seed=0)
    val = Counter(record.group for record in cut if record.split == "val")
    assert list(val.values()) == [5]
    assert "p6" not in val
