"""Scores at each threshold against masks that are thresholded one by one."""

import math

import pytest
import torch
from torch import Tensor

from finetune.metrics import multilabel
from finetune.metrics.calibration import CELLS, Confidences
from finetune.metrics.measurement import ImageBatch
from finetune.metrics.thresholds import STEPS, best_threshold, threshold_scores


def counts(probabilities: Tensor, target: Tensor, groups: int, ignore_index: int = 255) -> Tensor:
    images = torch.zeros(len(target), 3, *target.shape[-2:], dtype=torch.uint8)
    confidences = Confidences(groups, ignore_index)
    confidences.update(ImageBatch(torch.arange(len(target)), images, probabilities, target, target))
    return confidences.sums()["counts"]


@pytest.fixture(scope="module")
def two_classes() -> tuple[Tensor, Tensor]:
    """Probabilities (B, 2, H, W) and class indices, with an ignored image and ignored pixels."""
    generator = torch.Generator().manual_seed(0)
    second = torch.rand(3, 6, 7, generator=generator)
    target = (second + torch.rand(3, 6, 7, generator=generator) > 1.2).byte()
    target[torch.rand(target.shape, generator=generator) < 0.2] = 255
    target[0] = 255
    return torch.stack([1 - second, second], dim=1), target


def test_the_scores_are_those_of_masks_at_each_threshold(two_classes: tuple[Tensor, Tensor]) -> None:
    probabilities, target = two_classes
    scores = threshold_scores(counts(probabilities, target, 1))
    assert {name: values.shape for name, values in scores.items()} == dict.fromkeys(scores, (1, STEPS))
    for step in range(STEPS):
        mask = (probabilities[:, 1:] * STEPS >= step).byte()  # as i / 100 cannot be represented
        outcomes = multilabel.outcomes(mask, target[:, None])
        for name in ("precision", "recall", "f1", "iou"):
            expected = float(getattr(multilabel, name)(outcomes))
            assert float(scores[name][0, step]) == pytest.approx(expected, nan_ok=True), (name, step)


def test_each_class_of_masks_has_its_own_scores() -> None:
    generator = torch.Generator().manual_seed(1)
    probabilities = torch.rand(2, 3, 9, 14, generator=generator)
    target = torch.randint(0, 2, (2, 3, 9, 14), generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.2] = -100
    iou = threshold_scores(counts(probabilities, target, 3, -100))["iou"]
    for step in (0, 30, 99):
        mask = (probabilities * STEPS >= step).byte()[..., ::4, ::4]
        expected = multilabel.iou(multilabel.outcomes(mask, target[..., ::4, ::4], -100))
        assert torch.allclose(iou[:, step], expected)


def test_a_class_that_is_absent_has_no_best_threshold() -> None:
    scores = threshold_scores(torch.zeros(1, CELLS, 3, dtype=torch.int64))
    assert scores["iou"].isnan().all()
    assert best_threshold(scores["iou"][0]) == 0.5


def test_of_equal_thresholds_the_middle_one_is_best_and_missing_scores_are_never_best() -> None:
    iou = torch.full((STEPS,), 0.25, dtype=torch.float64)
    iou[20:61], iou[90:] = 0.5, math.nan
    assert best_threshold(iou) == 0.4
