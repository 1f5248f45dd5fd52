"""Overlaps of single images against confusion matrices and loops; intervals against a bootstrap by hand."""

import numpy as np
import pytest
import torch

from finetune.metrics import confusion, multilabel
from finetune.metrics.overlaps import ImageResults, class_overlaps, interval, overlap_iou


@pytest.fixture
def labels() -> tuple[torch.Tensor, torch.Tensor]:
    """Return predictions and targets (5, 7, 6) of 4 classes, with ignored pixels and an absent class."""
    generator = torch.Generator().manual_seed(0)
    prediction = torch.randint(0, 3, (5, 7, 6), generator=generator, dtype=torch.uint8)
    target = torch.randint(0, 4, (5, 7, 6), generator=generator, dtype=torch.uint8)
    target[target == 3] = 255
    target[0] = 255
    return prediction, target


def test_the_overlaps_of_each_image_are_those_of_its_confusion_matrix(
    labels: tuple[torch.Tensor, torch.Tensor],
) -> None:
    prediction, target = labels
    overlaps = class_overlaps(prediction, target, 4)
    assert overlaps.dtype == torch.int64
    for image in range(5):
        matrix = confusion.confusion_matrix(prediction[image], target[image], 4)
        expected = torch.stack([matrix.diagonal(), matrix.sum(1), matrix.sum(0)], dim=-1)
        assert torch.equal(overlaps[image], expected)
    whole = confusion.iou(confusion.confusion_matrix(prediction, target, 4))
    assert torch.allclose(overlap_iou(overlaps.sum(0)), whole, equal_nan=True)
    assert overlap_iou(overlaps)[0].isnan().all()


@pytest.mark.parametrize("ignored", [255, -1, 1000])
def test_any_label_may_be_ignored(ignored: int) -> None:
    target = torch.tensor([[[0, 1, ignored]]])
    assert class_overlaps(torch.tensor([[[0, 0, 1]]]), target, 2, ignored).tolist() == [[[1, 1, 2], [0, 1, 0]]]


def test_the_overlaps_of_masks_are_those_of_their_outcomes() -> None:
    generator = torch.Generator().manual_seed(1)
    prediction = torch.randint(0, 2, (3, 4, 6, 5), generator=generator)
    target = torch.randint(0, 2, (3, 4, 6, 5), generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.2] = 255
    overlaps = class_overlaps(prediction, target, 4)
    assert torch.allclose(overlap_iou(overlaps.sum(0)), multilabel.iou(multilabel.outcomes(prediction, target)))


def test_an_interval_is_that_of_sets_drawn_by_hand() -> None:
    generator = torch.Generator().manual_seed(2)
    true = torch.randint(50, 100, (40, 3), generator=generator)
    both = (true * torch.rand(40, 3, generator=generator)).long()
    overlaps = torch.stack([both, true, true], dim=-1)
    random, means = np.random.default_rng(0), []
    for _ in range(4000):
        total = overlaps.numpy()[random.integers(40, size=40)].sum(0)
        means.append(np.mean(total[:, 0] / (total[:, 1] + total[:, 2] - total[:, 0])))
    low, high = interval(overlaps)
    assert (low, high) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.01)
    assert low < float(overlap_iou(overlaps.sum(0)).mean()) < high
    assert interval(overlaps) == (low, high)


def test_images_that_are_alike_leave_no_doubt() -> None:
    overlaps = torch.tensor([[[50, 60, 70], [10, 20, 30]]]).expand(8, -1, -1)
    assert interval(overlaps) == pytest.approx([(50 / 80 + 10 / 40) / 2] * 2)


def test_a_class_that_few_images_have_is_left_out_of_the_sets_without_it() -> None:
    overlaps = torch.zeros(30, 2, 3, dtype=torch.int64)
    overlaps[:, 0] = torch.tensor([80, 100, 100])
    overlaps[0, 1] = torch.tensor([0, 10, 0])
    low, high = interval(overlaps)
    assert (low, high) == pytest.approx((80 / 120 / 2, 80 / 120))


def test_images_without_a_pixel_that_counts_are_not_drawn() -> None:
    overlaps = torch.zeros(3, 2, 3, dtype=torch.int64)
    overlaps[0], overlaps[2] = torch.tensor([50, 60, 70]), torch.tensor([10, 60, 70])
    found = ImageResults(torch.arange(3), overlaps).interval
    assert found == ImageResults(torch.arange(2), overlaps[::2]).interval
    assert found == pytest.approx((10 / 120, 50 / 80))
    assert ImageResults(torch.arange(2), overlaps[:2]).interval is None
