"""Specks and holes of masks, against hand-worked masks and a flood fill."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from finetune.data.masks.clean import CleanedTarget, clean
from finetune.data.masks.components import find_components


def mask(text: str) -> np.ndarray:
    """Return a mask from rows of digits; `.` is the ignored label."""
    return np.array([[255 if sign == "." else int(sign) for sign in row] for row in text.split()], dtype=np.uint8)


@pytest.mark.parametrize(
    ("pixels", "before", "after"),
    [
        (0, "000 010 000", "000 010 000"),
        (1, "000 010 000", "000 000 000"),  # a speck
        (1, "111 101 111", "111 111 111"),  # a hole
        (2, "0000 0110 0000", "0000 0000 0000"),
        (1, "0000 0110 0000", "0000 0110 0000"),
        (2, "00000 01000 00100 00000", "00000 00000 00000 00000"),  # over a corner: two specks of one pixel
        (3, "0000 0100 0110 0000", "0000 0000 0000 0000"),
        (1, "1111 1120 1122 2222", "1111 1122 1122 2222"),  # 0 has one side with 1, and two with 2
        (1, "1111 1102 1122 2222", "1111 1112 1122 2222"),  # two and two: the smaller label
        (1, "0002 1130 0002 0002", "0000 1102 0002 0002"),  # 3, the 0 beside it and the 2 above that are small
        (1, "000 0.0 000", "000 0.0 000"),  # ignored pixels stay
        (1, "... .1. ...", "... ... ..."),
        (2, "0000 0120 0000", "0000 0000 0000"),  # two specks side by side
        (9, "12 21", "12 21"),  # nothing large around
        (1, "10 00", "00 00"),  # at the border
    ],
)
def test_small_areas_take_the_label_around_them(pixels: int, before: str, after: str) -> None:
    assert clean(mask(before), pixels).tolist() == mask(after).tolist()


def flood(labels: np.ndarray) -> list[tuple[int, frozenset[tuple[int, int]]]]:
    """Return (label, pixels) of each component, by walking from pixel to pixel."""
    rest = {(y, x) for y in range(labels.shape[0]) for x in range(labels.shape[1])}
    found = []
    while rest:
        open_pixels, area = [rest.pop()], set()
        while open_pixels:
            y, x = open_pixels.pop()
            area.add((y, x))
            for near in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                if near in rest and labels[near] == labels[y, x]:
                    rest.remove(near)
                    open_pixels.append(near)
        found.append((int(labels[y, x]), frozenset(area)))
    return found


@pytest.mark.parametrize(
    ("seed", "size", "classes"), [(0, (1, 9), 2), (1, (9, 1), 2), (2, (23, 17), 2), (3, (31, 30), 5)]
)
def test_components_are_those_of_a_flood_fill(seed: int, size: tuple[int, int], classes: int) -> None:
    labels = np.random.default_rng(seed).integers(0, classes, size, dtype=np.uint8)
    found = find_components(labels)
    chosen = np.eye(len(found.areas), dtype=bool)
    ours = [
        (int(label), frozenset(zip(*map(list, found.mask(one).nonzero()), strict=True)))
        for label, one in zip(found.labels, chosen, strict=True)
    ]
    assert Counter((label, len(area)) for label, area in ours) == Counter(
        zip(found.labels.tolist(), found.areas.tolist(), strict=True)
    )
    assert set(ours) == set(flood(labels))


def test_a_spiral_is_one_component() -> None:
    spiral = mask("1111111 0000001 1111101 1000101 1011101 1000001 1111111")
    assert sorted(find_components(spiral).areas.tolist()) == sorted(len(area) for _, area in flood(spiral))


@dataclass(frozen=True)
class Fixed:
    """A target that is known."""

    labels: Tensor
    paths: tuple[Path, ...] = (Path("a.png"),)
    description: str = "mask 'a.png'"

    def read(self) -> Tensor:
        return self.labels


def test_a_cleaned_target_is_that_of_any_source_without_its_specks() -> None:
    target = Fixed(torch.from_numpy(mask("000 010 000")))
    cleaned = CleanedTarget(target, 1)
    assert (cleaned.paths, cleaned.description) == (target.paths, target.description)
    assert cleaned.read().dtype == torch.uint8
    assert cleaned.read().tolist() == [[0, 0, 0]] * 3


def test_each_channel_is_cleaned_on_its_own() -> None:
    channels = np.stack([mask("111 101 111"), mask("000 011 000"), mask("000 .00 000")])
    cleaned = CleanedTarget(Fixed(torch.from_numpy(channels)), 1).read()
    assert cleaned.tolist() == [mask(text).tolist() for text in ("111 111 111", "000 011 000", "000 .00 000")]
