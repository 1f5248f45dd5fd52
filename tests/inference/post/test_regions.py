"""Steps on areas, against maps worked by hand and a loop over flood-filled areas."""

import numpy as np
import pytest

from finetune.inference.post.regions import FillHoles, LargestComponent, MinSize

ndimage = pytest.importorskip("scipy.ndimage", reason="an independent answer, which albumentations brings")
NAMES = ["background", "leaf", "stone"]


def drawn(text: str) -> np.ndarray:
    return np.array([list(map(int, line)) for line in text.split()], dtype=np.uint8)


MAP = drawn("1100022 1100002 0000000 0111110 0100010 0101010 0100010 0111110")


def blobs(classes: int, seed: int, shape: tuple[int, int] = (30, 40)) -> np.ndarray:
    noise = np.random.default_rng(seed).random((classes, *shape))
    return ndimage.gaussian_filter(noise, (0, 1.5, 1.5)).argmax(0).astype(np.uint8)


def test_small_areas_take_the_class_around_them() -> None:
    found = MinSize(NAMES, pixels=4).clean(MAP)
    assert (found == drawn("1100000 1100000 0000000 0111110 0100010 0100010 0100010 0111110")).all()
    assert (MinSize(NAMES, pixels=4, classes=["leaf"]).clean(MAP)[:2] == MAP[:2]).all()
    assert (MinSize(NAMES, pixels=1).clean(MAP) == MAP).all()


def test_no_small_area_is_left_and_large_ones_stay() -> None:
    labels = blobs(3, 0)
    found = MinSize(["a", "b", "c"], pixels=20).clean(labels)
    assert (found != labels).any()
    for label in range(3):
        areas, count = ndimage.label(labels == label)
        for index in range(1, count + 1):
            if (areas == index).sum() >= 20:
                assert (found[areas == index] == label).all()
        areas, count = ndimage.label(found == label)
        assert all((areas == index).sum() >= 20 for index in range(1, count + 1))


def test_only_the_largest_area_of_each_class_stays() -> None:
    found = LargestComponent(NAMES).clean(MAP)
    assert (found == drawn("0000022 0000002 0000000 0111110 0100010 0100010 0100010 0111110")).all()
    for seed in range(3):
        cleaned = LargestComponent(NAMES).clean(blobs(3, seed))
        assert [ndimage.label(cleaned == label)[1] for label in (1, 2)] == [1, 1]


def test_holes_of_one_class_are_filled() -> None:
    found = FillHoles(NAMES).clean(MAP)
    assert (found == drawn("1100022 1100002 0000000 0111110 0111110 0111110 0111110 0111110")).all()
    assert (FillHoles(NAMES, pixels=7).clean(MAP) == MAP).all()
    assert (FillHoles(NAMES, classes=["stone"]).clean(MAP) == MAP).all()
    between = drawn("1112 1012 1112")
    assert (FillHoles(NAMES).clean(drawn("1122 1022 1122")) == drawn("1122 1022 1122")).all()
    assert (FillHoles(NAMES).clean(between) == drawn("1112 1112 1112")).all()


def test_masks_are_changed_one_by_one() -> None:
    masks = np.stack([blobs(2, seed) for seed in (1, 2)])
    names = ["sky", "sea"]
    filled, largest, large = (step(names).clean(masks) for step in (FillHoles, LargestComponent, MinSize))
    for before, holes, one, kept in zip(masks, filled, largest, large, strict=True):
        four = ndimage.generate_binary_structure(2, 1)
        outside = ndimage.binary_propagation(
            np.pad(np.zeros_like(before), 1, constant_values=1), four, np.pad(before == 0, 1, constant_values=1)
        )
        assert (holes == ~outside[1:-1, 1:-1]).all()
        areas, count = ndimage.label(before)
        sizes = [(areas == index).sum() for index in range(1, count + 1)]
        assert (one == (areas == 1 + int(np.argmax(sizes)))).all()
        assert (kept == np.isin(areas, [index for index, size in enumerate(sizes, 1) if size >= 50])).all()
    only = MinSize(names, classes=["sea"], pixels=10_000).clean(masks)
    assert (only[0] == masks[0]).all()
    assert not only[1].any()


@pytest.mark.parametrize("step", [MinSize(NAMES), LargestComponent(NAMES), FillHoles(NAMES)])
def test_a_map_of_one_class_stays(step: MinSize) -> None:
    for label in range(3):
        labels = np.full((3, 4), label, dtype=np.uint8)
        assert (step.clean(labels) == labels).all()


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"there is no class 'leav'. Did you mean leaf"):
        MinSize(NAMES, classes=["leav"])
    with pytest.raises(ValueError, match=r"pixels=0: expected 1 or more"):
        FillHoles(NAMES, pixels=0)
    with pytest.raises(ValueError, match="no class is called background, so nothing is a hole"):
        FillHoles(["sky", "sea"]).clean(MAP)
