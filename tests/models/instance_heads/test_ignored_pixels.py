"""Boxes on pixels that count for nothing."""

import numpy as np
import torch

from finetune.models.instance_heads.ignored_pixels import lie_on


def test_boxes_lie_on_pixels_as_counted_one_by_one() -> None:
    random = np.random.default_rng(0)
    pixels = random.random((20, 30)) < np.linspace(0, 1, 30)
    corners = np.sort(random.integers(-8, 40, (300, 2, 2)), axis=1)
    expected = []
    for (left, top), (right, bottom) in corners:
        inside = pixels[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
        expected.append(inside.size > 0 and bool(inside.mean() > 0.5))
    assert 50 < sum(expected) < 250
    found = lie_on(torch.from_numpy(corners.reshape(-1, 4)).float(), torch.from_numpy(pixels))
    assert found.tolist() == expected


def test_half_of_a_box_is_not_more_than_half() -> None:
    pixels = torch.tensor([[True, False], [True, False]])
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 1.0, 2.0], [-9.0, 0.0, 1.0, 2.0], [5.0, 5.0, 9.0, 9.0]])
    assert lie_on(boxes, pixels).tolist() == [False, True, True, False]
    assert lie_on(boxes[:0], pixels).tolist() == []
