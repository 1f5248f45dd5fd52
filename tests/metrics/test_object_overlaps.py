"""Overlaps against loops over pairs, on images that tiles do not divide."""

import numpy as np
import pytest
import torch

from finetune.instances import Objects, objects_of
from finetune.metrics.object_overlaps import TILE, box_overlaps, mask_overlaps, shared_pixels

SIZE = (TILE + 9, 2 * TILE + 5)


def random_masks(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(count, *SIZE, generator=generator) < 0.7
    masks[::2, TILE:] = False  # in some tiles only
    return masks


def with_boxes(boxes: list[list[float]], ignored: torch.Tensor | None = None) -> Objects:
    count = len(boxes)
    masks, labels = torch.zeros(count, *SIZE, dtype=torch.bool), torch.zeros(count, dtype=torch.int64)
    return Objects(masks, labels, torch.tensor(boxes), torch.ones(count), ignored)


@pytest.mark.parametrize("half", [False, True], ids=["float32", "autocast"])
def test_shared_pixels_are_those_of_a_loop_over_pairs(half: bool) -> None:
    masks, others, ignored = random_masks(4, 0), random_masks(3, 1), random_masks(1, 2)[0]
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        shared = shared_pixels(masks, others, ignored)
    whole = torch.ones_like(ignored)
    expected = [[int((a & b).sum()) for b in (*others, ignored, whole)] for a in (*masks, whole)]
    assert shared.dtype == torch.int64
    assert shared.tolist() == expected
    assert max(max(row) for row in expected) > 4096


def test_the_iou_of_masks_is_that_of_a_loop_over_pairs() -> None:
    masks, true, ignored = random_masks(4, 0), random_masks(3, 1), random_masks(1, 2)[0]
    masks[3] = False
    predicted, labels = Objects(masks, torch.zeros(4), torch.zeros(4, 4), torch.ones(4)), torch.zeros(3)
    iou, areas, true_areas = mask_overlaps(predicted, objects_of(true, labels, ignored=ignored))
    expected = [[int((a & b).sum()) / max(1, int((a | b).sum())) for b in true] for a in masks]
    crowd = [int((a & ignored).sum()) / max(1, int(a.sum())) for a in masks]
    assert iou.tolist() == [[*row, share] for row, share in zip(expected, crowd, strict=True)]
    assert areas.tolist() == [int(mask.sum()) for mask in masks]
    assert true_areas.tolist() == [int(mask.sum()) for mask in true]
    assert iou[3].tolist() == [0, 0, 0, 0]


def test_the_iou_of_boxes_worked_out_by_hand() -> None:
    predicted = with_boxes([[0, 0, 10, 10], [5, 0, 15, 10], [50, 50, 50, 60]])
    iou, areas = box_overlaps(predicted, with_boxes([[0, 0, 10, 10], [20, 20, 30, 30], [50, 50, 50, 60]]))
    # the last box has no area
    torch.testing.assert_close(iou, torch.tensor([[1, 0, 0, 0], [1 / 3, 0, 0, 0], [0, 0, 0, 0]], dtype=torch.float64))
    assert areas.tolist() == [100, 100, 0]


def test_the_share_of_a_box_on_ignored_pixels_is_that_of_small_points() -> None:
    ignored = random_masks(1, 3)[0]
    predicted = with_boxes([[3.25, 10.5, 40.75, 30.125], [-4, -3, 9, 8], [0.125, 0.25, 0.375, 0.5], [130, 70, 140, 90]])
    share = box_overlaps(predicted, with_boxes([[0, 0, 1, 1]], ignored))[0][:, -1]
    fine = np.kron(ignored.numpy(), np.ones((8, 8)))  # an eighth of a pixel each way
    for (left, top, right, bottom), found in zip((predicted.boxes * 8).int().tolist(), share.tolist(), strict=True):
        inside = fine[max(top, 0) : bottom, max(left, 0) : right].sum()
        assert found == pytest.approx(inside / ((right - left) * (bottom - top)))
    assert 0 < share[1] < 0.65  # a part outside of the image is not ignored


def test_images_without_objects_or_without_predictions_have_no_rows_or_columns() -> None:
    some, none = objects_of(random_masks(2, 0), torch.zeros(2)), objects_of(random_masks(0, 0), torch.zeros(0))
    assert [tuple(each.shape) for each in mask_overlaps(some, none)] == [(2, 1), (2,), (0,)]
    assert [tuple(each.shape) for each in mask_overlaps(none, some)] == [(0, 3), (0,), (2,)]
    assert [tuple(each.shape) for each in box_overlaps(none, none)] == [(0, 1), (0,)]
