"""Evaluators against hand-worked counts and torchmetrics."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchmetrics.classification import (
    MultilabelAccuracy,
    MultilabelF1Score,
    MultilabelJaccardIndex,
    MultilabelPrecision,
    MultilabelRecall,
)

from finetune.metrics import multilabel
from finetune.metrics.confusion import confusion_matrix
from finetune.metrics.evaluator import Evaluator, summary
from finetune.metrics.multilabel import MultilabelEvaluator, outcomes
from finetune.metrics.semantic import SemanticEvaluator

NAMES = ("sky", "sea", "land")
Batch = tuple[Tensor, Tensor]


def index_batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    prediction, target = torch.randint(0, 3, (2, 6, 4, 5), generator=generator)
    return prediction, target.masked_fill(target == 2, 255)


def mask_batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    prediction, target = torch.randint(0, 2, (2, 6, 3, 4, 5), generator=generator)
    target[0, :, 1] = 255
    target[1, 2] = 255
    return prediction.to(torch.uint8), target.to(torch.uint8)


CASES: list[tuple[Callable[..., Evaluator], Callable[[], Batch]]] = [
    (SemanticEvaluator, index_batch),
    (MultilabelEvaluator, mask_batch),
]


def counted(evaluator: Evaluator, batch: Batch, images: int = 6) -> dict[str, Tensor]:
    """Return the counts after a batch at a time."""
    evaluator.reset()
    for prediction, target in zip(*(tensor.split(images) for tensor in batch), strict=True):
        evaluator.update(prediction, target)
    return {name: tensor.clone() for name, tensor in evaluator.counts().items()}


@pytest.mark.parametrize(("kind", "batch"), CASES)
def test_two_shards_sum_to_the_counts_of_one(kind, batch) -> None:
    prediction, target = batch()
    evaluator = kind(NAMES)
    whole = counted(evaluator, (prediction, target))
    shards = [counted(evaluator, (prediction[rank::2], target[rank::2])) for rank in range(2)]
    assert all(tensor.dtype == torch.int64 for tensor in whole.values())
    total = {name: shards[0][name] + shards[1][name] for name in whole}
    assert {name: tensor.tolist() for name, tensor in total.items()} == {k: v.tolist() for k, v in whole.items()}
    for batch_size in (1, 4):
        again = counted(evaluator, (prediction, target), batch_size)
        assert {name: tensor.tolist() for name, tensor in again.items()} == {k: v.tolist() for k, v in whole.items()}


@pytest.mark.parametrize(("kind", "batch"), CASES)
def test_an_empty_evaluation_has_all_names_and_no_score(kind, batch) -> None:
    evaluator = kind(NAMES)
    empty = evaluator.counts()
    full = counted(evaluator, batch())
    assert {name: tensor.shape for name, tensor in empty.items()} == {name: t.shape for name, t in full.items()}
    assert evaluator.compute(empty).keys() == evaluator.compute(full).keys()
    assert all(math.isnan(value) for value in evaluator.compute(empty).values())
    assert {name for name in evaluator.compute(full) if "/" in name} == {f"iou/{name}" for name in NAMES}
    assert {"iou", "dice", "precision", "recall", "f1"} < summary(evaluator.compute(full)).keys()


@pytest.mark.parametrize(("kind", "batch"), CASES)
def test_rows_and_means_agree(kind, batch) -> None:
    evaluator = kind(NAMES)
    counts = counted(evaluator, batch())
    rows, scores = evaluator.class_rows(counts), evaluator.compute(counts)
    assert [row["class"] for row in rows] == list(NAMES)
    for name in rows[0].keys() - {"class", "pixel_share"}:
        values = torch.tensor([row[name] for row in rows], dtype=torch.float64)
        assert scores[name] == pytest.approx(float(values.nanmean()))
    assert [row["iou"] for row in rows] == pytest.approx([scores[f"iou/{name}"] for name in NAMES], nan_ok=True)
    assert {line.split()[0] for line in evaluator.table(counts).splitlines()} >= {"class", *NAMES, "mean"}


def test_a_semantic_evaluation_has_its_confusion_matrix() -> None:
    evaluator, batch = SemanticEvaluator(NAMES), index_batch()
    assert torch.equal(evaluator.confusion_matrix(counted(evaluator, batch)), confusion_matrix(*batch, classes=3))


def test_a_multilabel_evaluation_of_two_by_two_pixels_worked_out_by_hand() -> None:
    # sky: right, invented, missed, right; sea: nowhere and never predicted; land: one right, the others ignored
    target = torch.tensor([[[[1, 0], [1, 0]], [[0, 0], [0, 0]], [[1, 255], [255, 255]]]], dtype=torch.uint8)
    prediction = torch.tensor([[[[1, 1], [0, 0]], [[0, 0], [0, 0]], [[1, 1], [0, 1]]]], dtype=torch.uint8)
    evaluator = MultilabelEvaluator(NAMES)
    evaluator.update(prediction, target)
    counts = evaluator.counts()
    assert counts["outcomes"].tolist() == [[1, 1, 1, 1], [0, 0, 0, 4], [1, 0, 0, 0]]
    scores = evaluator.compute(counts)
    assert [scores[f"iou/{name}"] for name in NAMES] == pytest.approx([1 / 3, math.nan, 1], nan_ok=True)
    assert summary(scores) == pytest.approx(
        {
            "iou": (1 / 3 + 1) / 2,
            "dice": (1 / 2 + 1) / 2,
            "f1": (1 / 2 + 1) / 2,
            "precision": (1 / 2 + 1) / 2,
            "recall": (1 / 2 + 1) / 2,
            "accuracy": (1 / 2 + 1 + 1) / 3,
        }
    )
    assert [row["pixel_share"] for row in evaluator.class_rows(counts)] == [0.5, 0, 1]
    assert evaluator.confusion_matrix(counts) is None
    assert evaluator.table(counts).splitlines()[3].split() == ["sea", "0.00%", *["absent"] * 5, "1.0000"]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (multilabel.iou, MultilabelJaccardIndex),
        (multilabel.f1, MultilabelF1Score),
        (multilabel.precision, MultilabelPrecision),
        (multilabel.recall, MultilabelRecall),
        (multilabel.accuracy, MultilabelAccuracy),
    ],
)
def test_multilabel_scores_are_torchmetrics_when_every_class_is_there(ours, theirs) -> None:
    prediction, target = mask_batch()
    # as int64: torchmetrics marks ignored pixels by a negative number
    expected = theirs(3, average=None, ignore_index=255)(prediction.long(), target.long())
    torch.testing.assert_close(ours(outcomes(prediction, target)), expected.double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("ignore_index", [255, -100, 7])
def test_any_ignored_label_counts_alike(ignore_index: int) -> None:
    prediction, target = mask_batch()
    relabeled = target.long().masked_fill(target == 255, ignore_index)
    assert torch.equal(outcomes(prediction, relabeled, ignore_index), outcomes(prediction, target))


def test_stray_values_and_shapes_are_refused() -> None:
    masks = torch.zeros(1, 2, 3, 3, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"value 3 in the masks of the target; expected 0 and 1, and 255 to ignore"):
        outcomes(masks, masks + 3)
    with pytest.raises(ValueError, match="value 156 in the masks of the target"):
        outcomes(masks, masks + 156, ignore_index=-100)
    with pytest.raises(ValueError, match="value 2 in the masks of the prediction"):
        outcomes(masks + 2, masks)
    with pytest.raises(ValueError, match=r"Give masks of one shape \(B, K, H, W\)"):
        outcomes(masks, masks[:, :1])
