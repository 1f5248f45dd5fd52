"""Scores of objects against COCO's own, against cases worked out by hand, and over ranks."""

import math
import struct
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from finetune.instances import Objects, objects_of
from finetune.metrics.evaluator import headline, summary
from finetune.metrics.instances import CLASS_SCORES, ROWS, InstanceEvaluator
from tests.metrics.coco_scores import coco_scores
from tests.metrics.scenes import SIZE, Scenes, scenes

NAMES = ("cat", "dog", "eel")  # no scene has an eel
COUNTED = {"count_error", "count_bias"}


def counted(images: Scenes, indices: Sequence[int] | None = None, batch: int = 2) -> dict[str, Tensor]:
    evaluator, numbers = InstanceEvaluator(NAMES), torch.arange(len(images)) if indices is None else indices
    for start in range(0, len(images), batch):
        predicted, true = zip(*images[start : start + batch], strict=True)
        evaluator.update(predicted, true, torch.as_tensor(numbers[start : start + batch]))
    return evaluator.counts()


def scored(images: Scenes) -> dict[str, float]:
    return InstanceEvaluator(NAMES).compute(counted(images))


def squares(*places: tuple[int, int, int], labels: Sequence[int] = (), scores: Sequence[float] = ()) -> Objects:
    """Return squares by top, left and side, all of the first class and certain unless it is said."""
    masks = torch.zeros(len(places), 40, 60, dtype=torch.bool)
    for mask, (top, left, side) in zip(masks, places, strict=True):
        mask[top : top + side, left : left + side] = True
    return objects_of(masks, torch.tensor(labels or [0] * len(places)), torch.tensor(scores or [1.0] * len(places)))


def dense() -> Scenes:
    """Return an image of more than 100 objects, most of which are predicted, and a few others."""
    predicted, true = scenes(0, images=3, most=250, largest=14)[2]
    assert len(true) > 120
    predicted, true = predicted[torch.arange(150)], true[torch.arange(120)]
    predicted.labels[:], true.labels[:] = 0, 0
    return [(predicted, true), *scenes(0, images=3)]


@pytest.mark.parametrize("seed", range(8))
def test_scores_are_those_of_coco(seed: int) -> None:
    images = scenes(seed)
    expected, scores = coco_scores(images, NAMES), scored(images)
    assert len(expected) == 20
    assert {name: scores[name] for name in expected} == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert 0.1 < scores["mask_ap"] < 0.9
    assert math.isnan(scores["mask_ap/eel"])
    assert any(true.ignored is not None for _, true in images)


def test_scores_are_those_of_coco_with_more_than_a_hundred_objects_in_an_image() -> None:
    images = dense()
    expected, scores = coco_scores(images, NAMES), scored(images)
    assert {name: scores[name] for name in expected} == pytest.approx(expected, abs=1e-12, nan_ok=True)
    cut = InstanceEvaluator(NAMES).compute({**counted(images), "images": torch.tensor([[0, 1, 1]])})
    assert cut["mask_ar"] < scores["mask_ar"]  # with the limit of 100


def test_scores_do_not_depend_on_the_ranks_or_on_the_order_of_images() -> None:
    images, evaluator = scenes(3, images=9), InstanceEvaluator(NAMES)
    whole = counted(images)
    expected = exactly(evaluator.compute(whole))
    generator = torch.Generator().manual_seed(0)
    for ranks in (1, 2, 3, 4):
        order = torch.randperm(len(images), generator=generator).tolist()
        shards = [order[rank::ranks] for rank in range(ranks)]
        parts = [counted([images[i] for i in shard], shard, batch=1 + ranks) for shard in shards]
        assert all(part.keys() == whole.keys() for part in parts)
        total = {key: gathered([part[key] for part in parts], key in ROWS) for key in whole}
        assert exactly(evaluator.compute(total)) == expected
        assert {key: tensor.shape for key, tensor in total.items()} == {k: t.shape for k, t in whole.items()}
    assert all(tensor.dtype == torch.int64 for tensor in whole.values())


def gathered(parts: list[Tensor], rows: bool) -> Tensor:
    return torch.cat(parts) if rows else torch.stack(parts).sum(0)


def exactly(scores: dict[str, float]) -> dict[str, bytes]:
    return {name: struct.pack("d", score) for name, score in scores.items()}


def test_a_perfect_prediction_has_the_best_scores() -> None:
    images = [(true, true) for _, true in scenes(1)]
    images = [(Objects(true.masks, true.labels, true.boxes, true.scores), true) for true, _ in images]
    for name, score in scored(images).items():
        if not name.endswith("/eel"):
            assert score == (0 if name in COUNTED else 1), name


def test_nothing_predicted_is_zero_where_there_are_objects() -> None:
    images = [(true[torch.arange(0)], true) for _, true in scenes(1)]
    for name, score in summary(scored(images)).items():
        assert score == 0 or name in COUNTED, name
    objects = sum(len(true) for _, true in images) / len(images)
    assert scored(images)["count_error"] == -scored(images)["count_bias"] == pytest.approx(objects)


def test_scores_without_objects_are_nan_and_all_names_are_there() -> None:
    full = scored(scenes(1))
    for images in ([], [(predicted, true[torch.arange(0)]) for predicted, true in scenes(1)]):
        scores = scored(images)
        assert scores.keys() == full.keys()
        assert all(math.isnan(score) for name, score in scores.items() if not images or name not in COUNTED)
    assert scores["count_bias"] == scores["count_error"] > 0
    assert {name for name in full if "/" in name} == {f"{key}/{name}" for key in CLASS_SCORES for name in NAMES}
    assert headline(full) == ["mask_ap"]


def test_panoptic_quality_f1_and_numbers_of_objects_worked_out_by_hand() -> None:
    # 10 x 10 against 10 x 8 of it: IoU .8; 12 x 12 around it: 100 / 144; half of one: .5, which is enough for F1 only
    true = squares((0, 0, 10), (20, 0, 10), (0, 40, 10), (20, 40, 10), labels=[0, 0, 0, 1])
    predicted = squares(
        (0, 0, 10), (19, 0, 12), (0, 40, 10), (30, 20, 5), (20, 40, 10), (0, 20, 9),
        labels=[0, 0, 0, 0, 1, 1], scores=[0.9, 0.5, 0.7, 0.6, 0.4, 0.3],
    )  # fmt: skip
    predicted.masks[0, :, 8:], predicted.masks[2, :, 45:] = False, False
    images = [(predicted, true), (squares((0, 0, 10), (20, 0, 10)), squares((0, 0, 10)))]
    scores = scored(images)
    # cats: IoU .8, 100 / 144 and 1 of four objects; six predictions; the dog has a score that is too low
    overlap = 0.8 + 100 / 144 + 1
    assert scores["pq/cat"] == pytest.approx(overlap / ((6 + 4) / 2))
    assert scores["pq/dog"] == 0
    assert scores["pq"] == pytest.approx(overlap / 5 / 2)
    assert scores["sq"] == pytest.approx(overlap / 3 / 2)
    assert scores["rq"] == pytest.approx(3 / 5 / 2)
    assert scores["f1/cat"] == pytest.approx(4 / 5)
    assert scores["f1"] == pytest.approx(2 * 4 / (6 + 5))
    assert scores["count_error"] == pytest.approx((0 + 1) / 2)
    assert scores["count_bias"] == pytest.approx((0 + 1) / 2)
    lower = InstanceEvaluator(NAMES, min_score=0.4)
    lower.update(*zip(*images, strict=True), torch.arange(2))
    assert lower.compute(lower.counts())["pq/dog"] == 1
    assert lower.compute(lower.counts())["mask_ap"] == scores["mask_ap"]


def test_objects_on_ignored_pixels_are_neither_right_nor_wrong_nor_counted() -> None:
    true = squares((0, 0, 10))
    ignored = torch.zeros(true.size, dtype=torch.bool)
    ignored[20:] = True
    true = Objects(true.masks, true.labels, true.boxes, true.scores, ignored)
    predicted = squares((0, 0, 10), (25, 0, 10), (25, 20, 8), labels=[0, 0, 1])
    scores = scored([(predicted, true)])
    assert scores["pq"] == scores["f1"] == scores["box_ap"] == 1
    assert scores["count_error"] == 0


def test_rows_of_classes_and_the_table_have_the_same_scores() -> None:
    evaluator, counts = InstanceEvaluator(NAMES), counted(scenes(2))
    rows, scores = evaluator.class_rows(counts), evaluator.compute(counts)
    assert [row["class"] for row in rows] == list(NAMES)
    assert sum(float(row["pixel_share"]) for row in rows) == pytest.approx(1)
    for row in rows:
        expected = [scores[f"{name}/{row['class']}"] for name in CLASS_SCORES]
        assert [row[name] for name in CLASS_SCORES] == pytest.approx(expected, nan_ok=True)
    for name in ("mask_ap", "mask_ap50", "pq"):
        assert scores[name] == pytest.approx((float(rows[0][name]) + float(rows[1][name])) / 2)
    lines = evaluator.table(counts).splitlines()
    assert lines[3].split() == ["eel", "0.00%", *["absent"] * 4]
    assert lines[-1] == f"count error {scores['count_error']:.2f} objects per image"
    assert evaluator.confusion_matrix(counts) is None


def test_mixed_precision_changes_nothing() -> None:
    images = scenes(4)
    expected = counted(images)
    with torch.autocast("cpu", torch.bfloat16):
        again = counted(images)
    assert all(torch.equal(tensor, again[name]) for name, tensor in expected.items())


def test_a_reset_forgets_all_images() -> None:
    evaluator = InstanceEvaluator(NAMES)
    empty = evaluator.counts()
    evaluator.update(*zip(*scenes(0), strict=True), torch.arange(6))
    assert len(evaluator.counts()["images"]) == 6
    evaluator.reset()
    assert {k: t.tolist() for k, t in evaluator.counts().items()} == {k: t.tolist() for k, t in empty.items()}


def test_masks_of_another_size_and_stray_classes_are_refused() -> None:
    evaluator, true = InstanceEvaluator(NAMES), squares((0, 0, 10))
    other = objects_of(torch.ones(1, *SIZE, dtype=torch.bool), torch.tensor([0]))
    with pytest.raises(ValueError, match=r"predicted masks of \(120, 150\) pixels for an image of \(40, 60\)"):
        evaluator.update([other], [true], torch.tensor([0]))
    with pytest.raises(ValueError, match=r"an object of class 3, but there are 3 classes \(0..2\)"):
        evaluator.update([squares((0, 0, 10), labels=[3])], [true], torch.tensor([0]))
    with pytest.raises(ValueError, match="an object of class -1"):
        evaluator.update([true], [squares((0, 0, 10), labels=[-1])], torch.tensor([0]))
