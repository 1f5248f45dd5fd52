"""Anchors, by hand and against a loop over all pairs."""

import pytest
import torch

from finetune.models.instance_heads.anchors import BACKGROUND, NEITHER, grid_anchors, match_anchors
from finetune.models.instance_heads.ignored_pixels import covered_share


def test_anchors_lie_around_the_centers_of_cells_and_have_the_area_and_the_ratio() -> None:
    anchors = grid_anchors(torch.zeros(1, 8, 2, 3), stride=4, size=6.0, ratios=(1.0, 4.0))
    assert anchors.shape == (2 * 3 * 2, 4)
    assert anchors[0].tolist() == [-1, -1, 5, 5]
    assert anchors[1].tolist() == [0.5, -4, 3.5, 8]  # 3 wide, 12 high
    assert anchors[-2].tolist() == [7, 3, 13, 9]  # of the last column and row


def iou(a: list[float], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0.0, width) * max(0.0, height)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def test_anchors_match_as_a_loop_over_all_pairs_says_with_more_objects_than_are_compared_at_a_time() -> None:
    generator = torch.Generator().manual_seed(0)
    corner, sides = torch.rand(2, 150, 2, generator=generator) * torch.tensor([120.0, 20.0]).view(2, 1, 1)
    boxes = torch.cat([corner, corner + sides + 1], dim=1)
    anchors = torch.cat([grid_anchors(torch.zeros(16, 16), 8, 12.0, (0.5, 1.0, 2.0))])
    pairs = [[iou(anchor, box) for box in boxes.tolist()] for anchor in anchors.tolist()]
    expected = []
    for row in pairs:
        highest = max(row)
        expected.append(row.index(highest) if highest >= 0.5 else BACKGROUND if highest < 0.4 else NEITHER)
    for number in range(len(boxes)):
        column = [row[number] for row in pairs]
        expected[column.index(max(column))] = number
    found = match_anchors(anchors, boxes)
    assert found.tolist() == expected
    assert {BACKGROUND, NEITHER} < set(expected)


def test_boxes_without_an_area_and_images_without_objects_have_no_anchors() -> None:
    anchors = grid_anchors(torch.zeros(4, 4), 8, 12.0, (1.0,))
    for boxes in (torch.tensor([[4.0, 4.0, 4.0, 20.0], [0.0, 0.0, 0.0, 0.0]]), torch.zeros(0, 4)):
        assert (match_anchors(anchors, boxes) == BACKGROUND).all()


def test_background_that_is_ignored_by_more_than_half_counts_for_nothing() -> None:
    anchors = torch.tensor([[0.0, 0, 10, 4], [8.0, 0, 18, 4], [3.0, 0, 13, 10], [-10.0, 0, 2, 10], [20.0, 0, 30, 10]])
    ignored = torch.zeros(10, 18, dtype=torch.bool)
    ignored[:, :9] = True
    assert covered_share(ignored, anchors) == pytest.approx([0.9, 0.1, 0.6, 1.0, 0.0])
    boxes = torch.tensor([[3.0, 0, 13, 10]])
    assert match_anchors(anchors, boxes).tolist() == [BACKGROUND, BACKGROUND, 0, BACKGROUND, BACKGROUND]
    assert match_anchors(anchors, boxes, ignored).tolist() == [NEITHER, BACKGROUND, 0, NEITHER, BACKGROUND]
