"""Matching worked out by hand; scenes are compared with COCO's in `test_instances.py`."""

import numpy as np
import torch

from finetune.instances import objects_of
from finetune.metrics.instance_matching import COLUMNS, ONE, THRESHOLDS, match, match_image

SMALL, MEDIUM = 100, 5000  # pixels


def outcomes(iou: list[list[float]], areas: list[int], true_areas: list[int], area: int = 0) -> list[str]:
    """Return what each object is at each threshold, one letter each, in one range of areas."""
    right, wrong, _ = match(np.array(iou), np.array(areas), np.array(true_areas))
    letters = np.where(right, "R", np.where(wrong, "W", "-"))[:, :, area]
    return ["".join(row) for row in letters]


def test_thresholds_have_the_rounding_of_coco() -> None:
    assert THRESHOLDS.tolist() == np.linspace(0.5, 0.95, int(np.round((0.95 - 0.5) / 0.05)) + 1).tolist()


def test_the_higher_score_takes_the_object_and_the_next_one_its_second_best() -> None:
    # the first takes the first object up to .85; the second wants it too, and has the other up to .6
    iou = [[0.87, 0.55, 0], [0.95, 0.62, 0], [0.4, 0.3, 0]]
    assert outcomes(iou, [SMALL] * 3, [SMALL] * 2) == ["RRRRRRRRWW", "RRRWWWWWRR", "WWWWWWWWWW"]


def test_of_two_objects_with_one_iou_the_last_is_taken() -> None:
    assert match(np.array([[0.8, 0.8, 0], [0.0, 0.8, 0]]), np.array([9, 9]), np.array([9, 9]))[0][1].sum() == 0
    assert match(np.array([[0.8, 0.8, 0], [0.8, 0.0, 0]]), np.array([9, 9]), np.array([9, 9]))[0][1].any()


def test_ignored_pixels_are_taken_last_and_by_any_number() -> None:
    iou = [[0.6, 0.9], [0.6, 0.9], [0.0, 0.9], [0.0, 0.2]]
    assert outcomes(iou, [SMALL] * 4, [SMALL]) == ["RRR------W", "---------W", "---------W", "WWWWWWWWWW"]


def test_an_object_of_another_size_counts_only_if_there_is_no_better() -> None:
    # among medium objects: a medium one on a medium true one, although it fits a small one better
    assert outcomes([[0.9, 0.6, 0]], [MEDIUM], [SMALL, MEDIUM], area=2) == ["RRR------W"]
    # one on the small true object, then a medium and a small one on nothing
    iou = [[0.96, 0.0, 0], [0.0, 0.0, 0], [0.0, 0.0, 0]]
    assert outcomes(iou, [SMALL, MEDIUM, SMALL], [SMALL, MEDIUM], area=2) == ["-" * 10, "W" * 10, "-" * 10]


def test_areas_at_a_limit_are_in_both_ranges() -> None:
    for area, ranges in ((1023, [1]), (1024, [1, 2]), (1025, [2]), (9216, [2, 3]), (9217, [3])):
        right, wrong, _ = match(np.array([[1.0, 0]]), np.array([area]), np.array([area]))
        assert np.flatnonzero(right[0, 0]).tolist() == [0, *ranges]
        assert not wrong.any()


def test_rows_are_by_falling_score_and_hold_what_became_of_each_object() -> None:
    masks = torch.zeros(3, 8, 8, dtype=torch.bool)
    masks[0, :4], masks[1, :3], masks[2, 6:] = True, True, True  # the second is three quarters of the first
    true = objects_of(masks[:1], torch.tensor([1]))
    predicted = objects_of(masks[[2, 1, 1]], torch.tensor([1, 1, 0]), torch.tensor([0.25, 0.5, 0.75]))
    rows, areas = match_image(7, predicted, true)
    columns = {name: column.tolist() for name, column in zip(COLUMNS, rows.unbind(1), strict=True)}
    assert areas.tolist() == [32]
    assert columns["image"] == [7, 7, 7]
    assert columns["class"] == [0, 1, 1]
    assert columns["position"] == [0, 0, 1]
    assert columns["score"] == torch.tensor([0.75, 0.5, 0.25]).view(torch.int32).tolist()
    assert columns["iou"] == [0, 3 * ONE // 4, 0]
    # IoU .5 to .75 are six thresholds, of which each has four bits: all, small, medium, large
    all_and_small, above = sum(0b11 << 4 * t for t in range(6)), sum(0b11 << 4 * t for t in range(6, 10))
    assert columns["mask_right"] == columns["box_right"] == [0, all_and_small, 0]
    assert columns["mask_wrong"] == columns["box_wrong"] == [all_and_small | above, above, all_and_small | above]
