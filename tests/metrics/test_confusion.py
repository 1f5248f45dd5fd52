"""The confusion matrix against hand-worked cases, a NumPy loop and torchmetrics."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.classification import (
    MulticlassCohenKappa,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassJaccardIndex,
    MulticlassPrecision,
    MulticlassRecall,
)

from finetune.metrics import confusion
from finetune.metrics.confusion import confusion_matrix, mean, scores

CLASSES = 5


@pytest.fixture
def labels() -> tuple[Tensor, Tensor]:
    """Predictions and targets (6, 16, 20), one pixel in five ignored."""
    generator = torch.Generator().manual_seed(3)
    prediction, target = torch.randint(0, CLASSES, (2, 6, 16, 20), generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.2] = 255
    return prediction, target


@pytest.fixture
def matrix(labels: tuple[Tensor, Tensor]) -> Tensor:
    return confusion_matrix(*labels, CLASSES)


def test_a_two_class_case_worked_by_hand() -> None:
    truth = torch.tensor([[0, 0, 0, 1], [1, 1, 255, 255]])
    prediction = torch.tensor([[0, 0, 1, 1], [1, 0, 0, 1]])
    matrix = confusion_matrix(prediction, truth, classes=2)
    assert matrix.tolist() == [[2, 1], [1, 2]]
    assert matrix.dtype == torch.int64
    assert confusion.iou(matrix).tolist() == [2 / 4, 2 / 4]
    assert confusion.dice(matrix).tolist() == [4 / 6, 4 / 6]
    assert confusion.pixel_accuracy(matrix).item() == 4 / 6


def test_a_three_class_case_worked_by_hand() -> None:
    matrix = torch.tensor([[4, 1, 0], [2, 3, 0], [0, 0, 0]])  # class 2 is nowhere
    assert confusion.precision(matrix).tolist()[:2] == [4 / 6, 3 / 4]
    assert confusion.recall(matrix).tolist()[:2] == [4 / 5, 3 / 5]
    assert confusion.iou(matrix).tolist()[:2] == [4 / 7, 3 / 6]
    assert all(math.isnan(score(matrix)[2]) for score in (confusion.iou, confusion.precision, confusion.recall))
    assert scores(matrix)["iou"] == pytest.approx((4 / 7 + 3 / 6) / 2)


def test_rows_are_the_truth_and_columns_the_prediction() -> None:
    matrix = confusion_matrix(prediction=torch.tensor([2]), target=torch.tensor([1]), classes=3)
    assert matrix.tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 0]]


def test_the_matrix_is_that_of_a_plain_loop(labels: tuple[Tensor, Tensor], matrix: Tensor) -> None:
    expected = np.zeros((CLASSES, CLASSES), dtype=np.int64)
    for guess, truth in zip(*(tensor.flatten().tolist() for tensor in labels), strict=True):
        if truth != 255:
            expected[truth, guess] += 1
    assert np.array_equal(matrix.numpy(), expected)


def test_the_matrix_is_that_of_torchmetrics(labels: tuple[Tensor, Tensor], matrix: Tensor) -> None:
    theirs = MulticlassConfusionMatrix(CLASSES, ignore_index=255)(*labels)
    assert torch.equal(matrix, theirs)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (confusion.iou, MulticlassJaccardIndex),
        (confusion.f1, MulticlassF1Score),
        (confusion.precision, MulticlassPrecision),
        (confusion.recall, MulticlassRecall),
    ],
)
def test_scores_are_those_of_torchmetrics_when_every_class_is_there(labels, matrix, ours, theirs) -> None:
    expected = theirs(CLASSES, average=None, ignore_index=255)(*labels)
    torch.testing.assert_close(ours(matrix), expected.double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("dtype", "ignore_index"),
    [
        *product([torch.int16, torch.int32, torch.int64], [255, 5, 200, -100]),
        *product([torch.uint8], [255, 5, 200]),  # bytes hold no negative label
    ],
)
def test_any_integer_type_and_ignored_label_counts_alike(labels, matrix, dtype, ignore_index) -> None:
    prediction, target = labels
    target = target.masked_fill(target == 255, ignore_index).to(dtype)
    assert torch.equal(confusion_matrix(prediction.to(dtype), target, CLASSES, ignore_index), matrix)


def test_a_byte_of_156_is_not_taken_for_an_ignored_label_of_minus_100() -> None:
    labels = torch.tensor([156], dtype=torch.uint8)
    assert confusion_matrix(labels, labels, 200, ignore_index=-100)[156, 156] == 1


def test_more_classes_than_a_byte_holds() -> None:
    labels = torch.arange(1000)
    assert torch.equal(confusion_matrix(labels, labels, 1000, ignore_index=-1), torch.eye(1000, dtype=torch.int64))


def test_an_invented_class_scores_zero_and_an_absent_one_is_left_out() -> None:
    matrix = confusion_matrix(torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 0, 0]), classes=3)
    assert confusion.iou(matrix).nan_to_num(-1).tolist() == [3 / 4, 0, -1]
    assert confusion.dice(matrix).nan_to_num(-1).tolist() == [6 / 7, 0, -1]
    assert confusion.recall(matrix).nan_to_num(-1).tolist() == [3 / 4, -1, -1]
    assert confusion.precision(matrix).nan_to_num(-1).tolist() == [1, 0, -1]
    assert mean(confusion.iou(matrix)).item() == 3 / 8


def test_per_class_f1_is_the_harmonic_mean_of_precision_and_recall(matrix: Tensor) -> None:
    precision, recall = confusion.precision(matrix), confusion.recall(matrix)
    torch.testing.assert_close(confusion.f1(matrix), 2 * precision * recall / (precision + recall))


def test_agreement_beyond_chance_is_kappa(labels: tuple[Tensor, Tensor], matrix: Tensor) -> None:
    by_hand = torch.tensor([[20, 5], [10, 15]])  # accuracy 0.7, and 0.5 by chance
    assert confusion.kappa(by_hand).item() == pytest.approx((0.7 - 0.5) / (1 - 0.5))
    prediction, target = labels
    theirs = MulticlassCohenKappa(CLASSES, ignore_index=255)(prediction, target)
    assert confusion.kappa(matrix).item() == pytest.approx(theirs.item(), abs=1e-6)


def test_frequent_classes_weigh_more_in_a_frequency_weighted_iou() -> None:
    matrix = torch.tensor([[6, 2, 0], [1, 1, 0], [0, 0, 0]])
    assert confusion.frequency_weighted_iou(matrix).item() == pytest.approx(0.8 * 6 / 9 + 0.2 * 1 / 4)
    invented = torch.tensor([[6, 2], [0, 0]])  # a class that is never true has an IoU of 0, and no weight
    assert confusion.frequency_weighted_iou(invented).item() == pytest.approx(6 / 8)


def test_scores_are_plain_numbers_and_nan_when_nothing_was_counted(matrix: Tensor) -> None:
    names = {"iou", "dice", "precision", "recall", "f1", "pixel_accuracy", "frequency_weighted_iou", "kappa"}
    assert scores(matrix).keys() == names
    assert all(type(value) is float and -0.1 < value < 1 for value in scores(matrix).values())
    assert all(math.isnan(value) for value in scores(torch.zeros(3, 3, dtype=torch.int64)).values())


def test_an_ignored_batch_counts_nothing() -> None:
    target = torch.full((2, 4, 4), 255, dtype=torch.uint8)
    assert confusion_matrix(torch.zeros(2, 4, 4, dtype=torch.int64), target, 3).sum() == 0
    assert confusion_matrix(torch.zeros(0, 4), torch.zeros(0, 4), 3).sum() == 0


def test_the_callers_labels_are_left_as_they_are() -> None:
    target, prediction = torch.tensor([0, 1, 255], dtype=torch.int32), torch.tensor([1, 1, 1], dtype=torch.int32)
    confusion_matrix(prediction, target, 2)
    assert (target.tolist(), prediction.tolist()) == ([0, 1, 255], [1, 1, 1])


@pytest.mark.parametrize("stray", [3, 4, 254, -1, 2**31 + 1])
def test_a_stray_label_is_named(stray: int) -> None:
    with pytest.raises(ValueError, match=f"label {stray} in the target, where only 255 is ignored"):
        confusion_matrix(torch.tensor([0, 0, 0]), torch.tensor([0, 255, stray]), classes=3)
    with pytest.raises(ValueError, match=f"label {stray} in the prediction"):
        confusion_matrix(torch.tensor([0, 0, stray]), torch.tensor([0, 255, 0]), classes=3)


def test_labels_of_another_shape_are_refused_rather_than_broadcast() -> None:
    with pytest.raises(ValueError, match="one shape"):
        confusion_matrix(torch.zeros(2, 4, 4).long(), torch.zeros(2, 1, 4, 4).long(), classes=2)
