"""Objects of windows against those of the whole image, and rules worked out by hand."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from finetune.data.window import Window
from finetune.inference.instances import InstancePredictor
from finetune.inference.instances.merging import merge_windows
from finetune.instances import ObjectCrop, Objects
from tests.inference.instances.color_model import image_of

Build = Callable[..., InstancePredictor]
LEFT, RIGHT = Window(0, 0, 100, 200), Window(0, 150, 100, 200)  # columns 150 to 200 are in both
SIZE = (100, 350)


def block(left: int, right: int, top: int = 40, bottom: int = 60, label: int = 0, score: float = 0.9) -> ObjectCrop:
    return ObjectCrop(top, left, np.ones((bottom - top, right - left), dtype=bool), label, score)


def merged(left: list[ObjectCrop], right: list[ObjectCrop]) -> list[tuple[int, int]]:
    """Return the left and the right edge of each object, sorted."""
    return sorted(crop.box[::2] for crop in merge_windows([(LEFT, left), (RIGHT, right)], SIZE))


def masks_of(objects: Objects) -> set[tuple[int, bytes]]:
    return {(int(label), mask.numpy().tobytes()) for label, mask in zip(objects.labels, objects.masks, strict=True)}


def test_a_disc_in_the_middle_of_four_windows_is_the_one_of_the_whole_image(predict_with: Build) -> None:
    image = image_of((224, 224), (112, 112, 70, 0))  # windows of 128 begin at 0 and 96: each sees a part only
    whole, divided = predict_with().predict_image(image), predict_with(128).predict_image(image)
    assert len(whole) == len(divided) == 1
    assert (divided.masks == whole.masks).all()
    assert (divided.boxes == whole.boxes).all()


@pytest.mark.parametrize("overlap", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_many_discs_are_those_of_the_whole_image(seed: int, overlap: float, predict_with: Build) -> None:
    random = np.random.default_rng(seed)
    rows, columns = np.meshgrid(np.arange(5), np.arange(7), indexing="ij")
    places = np.stack([rows.ravel(), columns.ravel()], axis=1) * 60 + 30 + random.integers(-3, 4, (35, 2))
    discs = [(*place, random.integers(3, 25), random.integers(2)) for place in places]
    image = image_of((300, 420), *discs)
    whole = predict_with().predict_image(image)
    divided = predict_with([128, 160], overlap, batch_size=3).predict_image(image)
    assert len(whole) == 35
    assert masks_of(divided) == masks_of(whole)
    assert (divided.scores == 0.9).all()


def test_two_discs_near_a_border_stay_two(predict_with: Build) -> None:
    image = image_of((100, 224), (50, 100, 20, 0), (10, 122, 1, 0), (50, 144, 20, 0), (50, 185, 19, 1))
    whole, divided = predict_with().predict_image(image), predict_with(128).predict_image(image)
    assert len(whole) == 3  # the small one is of a low score
    assert masks_of(divided) == masks_of(whole)


def test_an_object_that_both_windows_see_whole_is_one() -> None:
    assert merged([block(160, 190)], [block(162, 191)]) == [(162, 191)]  # 12 pixels from the border, not 10


def test_an_object_replaces_its_cut_part() -> None:
    assert merged([block(180, 200)], [block(180, 230)]) == [(180, 230)]
    assert merged([block(178, 200)], [block(180, 230, score=0.6)]) == [(180, 230)]  # whatever their scores


def test_parts_that_agree_in_the_overlap_are_joined_with_the_higher_score() -> None:
    (joined,) = merge_windows([(LEFT, [block(100, 200, score=0.6)]), (RIGHT, [block(150, 300, score=0.8)])], SIZE)
    assert (joined.box, joined.area, joined.score) == ((100, 40, 300, 60), 200 * 20, 0.8)


def test_masks_that_end_just_before_the_border_are_joined_too() -> None:
    assert merged([block(100, 198)], [block(152, 300)]) == [(100, 300)]
    assert merged([block(100, 190)], [block(160, 300)]) == [(100, 190), (160, 300)]  # neither is cut, and they differ


def test_parts_that_disagree_leave_the_larger_one_or_both() -> None:
    left, right = block(100, 200, 40, 60), block(150, 300, 0, 100)  # share 1000 of 5000 pixels of the overlap
    assert merged([left], [right]) == [(100, 200), (150, 300)]  # half of the smaller one, not more
    assert merged([block(120, 200, 40, 60)], [right]) == [(150, 300)]


def test_other_classes_are_other_objects() -> None:
    assert merged([block(160, 190)], [block(160, 190, label=1)]) == [(160, 190), (160, 190)]
    assert merged([block(100, 200)], [block(150, 300, label=1)]) == [(100, 200), (150, 300)]


def test_what_one_window_tells_apart_stays_apart() -> None:
    assert merged([block(160, 190), block(160, 180)], []) == [(160, 180), (160, 190)]
    nested = [block(150, 200), block(160, 180, 45, 55)]
    assert merged(nested, nested) == [(150, 200), (160, 180)]


def test_parts_in_a_row_of_windows_become_one_object() -> None:
    windows = [Window(0, left, 100, 128) for left in (0, 96, 192)]
    found = [(window, [block(max(20, window.left), min(300, window.left + 128))]) for window in windows]
    (joined,) = merge_windows(found, (100, 320))
    assert joined.box == (20, 40, 300, 60)


def test_no_objects_are_none() -> None:
    assert merge_windows([(LEFT, []), (RIGHT, [])], SIZE) == []


def test_objects_come_by_falling_score(predict_with: Build) -> None:
    found = merge_windows(
        [(LEFT, [block(0, 9, score=0.6), block(20, 29, score=0.7)]), (RIGHT, [block(250, 260)])], SIZE
    )
    assert [crop.score for crop in found] == [0.9, 0.7, 0.6]
    assert torch.equal(predict_with(128).predict_image(image_of((224, 224))).scores, torch.zeros(0))
