"""Average precision worked out by hand; scenes are compared with COCO's in `test_instances.py`."""

import math

import pytest
import torch

from finetune.metrics.average_precision import average_precision


def test_precision_is_that_of_the_same_or_a_higher_recall() -> None:
    # precision 1, 1/2, 2/3, 3/4 at recall 1/4, 1/4, 1/2, 3/4: 26 recalls to .25, 50 more to .75, 25 never reached
    right = torch.tensor([1, 0, 1, 1])
    precision, recall = average_precision(right, 1 - right, objects=4)
    assert precision == pytest.approx((26 * 1 + 50 * 3 / 4) / 101)
    assert recall == 0.75


def test_detections_that_are_neither_right_nor_wrong_do_not_count() -> None:
    right, wrong = torch.tensor([0, 1, 0, 0]), torch.tensor([0, 0, 0, 1])
    assert average_precision(right, wrong, objects=1) == (1, 1)


def test_nothing_predicted_is_zero_and_nothing_to_find_is_nan() -> None:
    nothing, wrong = torch.zeros(0, dtype=torch.int64), torch.ones(2, dtype=torch.int64)
    assert average_precision(nothing, nothing, objects=3) == (0, 0)
    assert all(math.isnan(score) for score in average_precision(1 - wrong, wrong, objects=0))
