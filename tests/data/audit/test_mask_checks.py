"""Suspicious masks: each check fires on what is drawn for it, and not on the rest."""

import numpy as np
import pytest
import torch

from finetune.data.audit.alignment import SHIFTS, clear_shift, edge_profile
from finetune.data.audit.examination import mask_facts
from finetune.data.audit.mask_checks import (
    inverted_masks,
    resized_masks,
    shifted_data,
    shifted_masks,
    specks,
    swapped_classes,
    uniform_masks,
    void_masks,
)
from finetune.data.audit.split_checks import absent_classes, divided_groups, imbalance, mostly_void
from tests.data.audit.drawn import data_set, kinds, labels, photo

BINARY = ("background", "thing")


def filled(label: int) -> np.ndarray:
    return np.full((48, 64), label, dtype=np.uint8)


def photos(count: int) -> list[np.ndarray]:
    return [photo(seed) for seed in range(count)]


def test_masks_without_a_class_of_one_class_and_void_ones_are_told_apart() -> None:
    data = data_set(photos(4), [labels(), filled(0), filled(2), filled(255)])
    assert kinds(uniform_masks(data)) == {"empty": [1], "full": [2]}
    (void,) = void_masks(data)
    assert (list(void.details), void.exclude) == ([3], [3])
    assert uniform_masks(data_set(photos(2))) == void_masks(data_set(photos(2))) == []


def test_channels_without_any_class_are_empty() -> None:
    channels = np.stack([labels() == 1, labels() == 2]).astype(np.uint8)
    data = data_set(photos(2), [channels, np.zeros_like(channels)], classes=("a", "b"))
    assert kinds(uniform_masks(data)) == {"empty": [1]}


def test_specks_and_holes_are_counted_and_the_move_is_named() -> None:
    spotted = np.zeros((48, 64), dtype=np.uint8)
    spotted[2:24:3, 2:30:3] = 1  # 8 x 10 specks of a pixel
    spotted[30:44, 30:60] = 2
    spotted[32:34, 32:34] = 0  # a hole of four pixels
    spotted[38, 40:45] = 0  # of five, which is none
    facts = mask_facts(torch.from_numpy(spotted), None, 255)
    assert (facts.specks, facts.holes) == (80, 1)
    (found,) = specks(data_set(photos(2), [labels(), spotted]))
    assert found.details == {1: "80 specks, 1 holes"}
    assert "data.clean_masks=4 removes them" in found.text


def test_masks_at_another_scale_are_a_note() -> None:
    (found,) = resized_masks(data_set(photos(3), [labels(), labels((96, 128)), labels((64, 48))]))
    assert found.details == {1: "image 48x64, mask 96x128"}


def square(inside: int) -> np.ndarray:
    mask = np.full((48, 64), 1 - inside, dtype=np.uint8)
    mask[10:30, 10:30] = inside
    return mask


def test_a_mask_that_is_the_other_way_round_than_most_is_inverted() -> None:
    data = data_set(photos(8), [*[square(1)] * 7, square(0)], classes=BINARY)
    assert kinds(inverted_masks(data)) == {"inverted": [7]}
    assert inverted_masks(data_set(photos(8), square(1), classes=BINARY)) == []
    large = np.pad(np.ones((44, 60), dtype=np.uint8), 2)
    assert inverted_masks(data_set(photos(8), [*[square(1)] * 7, large], classes=BINARY)) == []
    assert inverted_masks(data_set(photos(8), [*[square(1)] * 4, *[square(0)] * 4], classes=BINARY)) == []


def test_classes_that_may_be_swapped_are_a_note() -> None:
    (found,) = swapped_classes(data_set(photos(6), square(0), classes=BINARY))
    assert "thing is most of the pixels and lies around background in 6 of 6 masks" in found.text
    assert swapped_classes(data_set(photos(6), square(1), classes=BINARY)) == []
    assert swapped_classes(data_set(photos(6))) == []


def scene(seed: int, down: int = 0, right: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return an image (96, 128, 3) of bright squares in noise, and their mask, which is shifted."""
    random = np.random.default_rng(seed)
    mask = np.zeros((96, 128), dtype=np.uint8)
    for _ in range(5):
        y, x = random.integers(12, 60), random.integers(12, 90)
        mask[y : y + 22, x : x + 24] = 1
    image = 60 + 90 * mask[..., None] + random.integers(0, 12, (96, 128, 3))
    return image.astype(np.uint8), np.roll(mask, (down, right), (0, 1))


@pytest.mark.parametrize(("down", "right"), [(6, 0), (0, -4), (-8, 4)])
def test_a_shifted_mask_is_found_with_its_shift(down: int, right: int) -> None:
    image, mask = scene(0, down, right)
    profile = edge_profile(image[..., 1], mask[None], 255)
    assert profile is not None
    assert clear_shift(profile) == (-down, -right)
    scenes = [scene(seed) for seed in range(5)]
    images, masks = [each[0] for each in scenes], [each[1] for each in scenes]
    assert shifted_masks(data_set(images, masks, classes=BINARY)) == []
    found = shifted_masks(data_set([*images, image], [*masks, mask], classes=BINARY))
    assert kinds(found) == {"shifted": [5]}
    assert "fits better" in found[0].details[5]


def test_masks_that_are_all_shifted_are_one_finding() -> None:
    scenes = [scene(seed, 4, 0) for seed in range(10)]
    data = data_set([each[0] for each in scenes], [each[1] for each in scenes], classes=BINARY)
    assert shifted_masks(data) == []
    (found,) = shifted_data(data)
    assert "all would fit better 4 pixels further up" in found.text
    straight = [scene(seed) for seed in range(10)]
    assert shifted_data(data_set([s[0] for s in straight], [s[1] for s in straight], classes=BINARY)) == []


def test_a_profile_is_the_mean_edge_below_the_shifted_border() -> None:
    image, mask = scene(3)
    gray = image[..., 1].astype(int)
    strength = np.abs(gray[:-1, 1:] - gray[:-1, :-1]) + np.abs(gray[1:, :-1] - gray[:-1, :-1])
    border = [
        (y, x)
        for y in range(8, 96 - 9)
        for x in range(8, 128 - 9)
        if mask[y, x] != mask[y, x + 1] or mask[y, x] != mask[y + 1, x]
    ]
    profile = edge_profile(image[..., 1], mask[None], 255)
    assert profile is not None
    for row, down in enumerate(SHIFTS):
        expected = np.mean([strength[y + down, x - 2] for y, x in border]) / strength.mean()
        assert profile[row, 3] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("here", "far", "expected"),
    [(1.0, 2.0, (6, -8)), (1.0, 1.5, None), (1.6, 2.0, None), (1.4, 2.0, (6, -8))],
)
def test_a_shift_is_clear_if_edges_are_strong_there_and_weak_here(
    here: float, far: float, expected: tuple[int, int] | None
) -> None:
    profile = np.ones((9, 9), dtype=np.float32)
    profile[4, 4], profile[7, 0] = here, far
    assert clear_shift(profile) == expected


def test_the_border_of_void_does_not_count() -> None:
    image, mask = scene(0)
    blocks = 255 * (np.add.outer(np.arange(96) // 4, np.arange(128) // 4) % 2).astype(np.uint8)
    assert edge_profile(image[..., 1], blocks[None], 255) is None
    assert edge_profile(image[..., 1], blocks[None], 7) is not None
    ring = np.where(mask, 1, np.where(np.roll(mask, 3, 1), 255, 0)).astype(np.uint8)
    fewer, all_of_it = edge_profile(image[..., 1], ring[None], 255), edge_profile(image[..., 1], mask[None], 255)
    assert fewer is not None
    assert not np.array_equal(fewer, all_of_it)


def test_noise_and_masks_without_borders_have_no_shift() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (96, 128), dtype=np.uint8)
    profile = edge_profile(noise, scene(0)[1][None], 255)
    assert profile is not None
    assert clear_shift(profile) is None
    assert edge_profile(noise, np.zeros((1, 96, 128), dtype=np.uint8), 255) is None


def test_a_class_that_a_split_does_not_have_is_named() -> None:
    without = np.where(labels() == 2, 0, labels()).astype(np.uint8)
    found = absent_classes(data_set(photos(3), [labels(), without, labels()], ["train", "val", "test"]))
    assert [finding.text.partition(",")[0] for finding in found] == ["no val image has other"]
    assert absent_classes(data_set(photos(2))) == []


def test_rare_classes_and_mostly_void_masks_are_said() -> None:
    rare = np.zeros((48, 64), dtype=np.uint8)
    rare[0, :2], rare[10:40] = 2, 1
    (found,) = imbalance(data_set(photos(1), rare))
    assert "1 of 3 classes have less than 0.1% of the pixels: other 0.065%" in found.text
    assert imbalance(data_set(photos(1))) == imbalance(data_set(photos(1), square(1))) == []
    void = np.full((48, 64), 255, dtype=np.uint8)
    void[:10] = 1
    assert "79% of the pixels are void" in mostly_void(data_set(photos(1), void))[0].text
    assert mostly_void(data_set(photos(1))) == []


def test_a_group_in_two_splits_is_a_leak() -> None:
    data = data_set(photos(4), None, ["train", "val", "train", "test"], ["p1", "p1", "p2", "p3"])
    (found,) = divided_groups(data)
    assert (found.kind, found.severity, sorted(found.details)) == ("group_leak", "warning", [0, 1])
    assert "1 groups have images in several splits, so scores come out too high: p1 (train and val)" in found.text
    assert divided_groups(data_set(photos(2), None, ["train", "val"])) == []
