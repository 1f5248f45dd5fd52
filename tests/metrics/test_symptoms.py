"""Symptoms on histories that were worked out by hand."""

import math
from collections.abc import Sequence
from itertools import product

import pytest
import torch

from finetune.metrics.confusion import iou, mean
from finetune.metrics.semantic import SemanticEvaluator
from finetune.metrics.symptoms import (
    Validation,
    at_chance,
    chance_iou,
    class_unfound,
    frozen_backbone,
    overfitting,
    rising_loss,
    unfound_classes,
)


def history(
    train: Sequence[float], val: Sequence[float], scores: Sequence[float], of: int | None = None, chance: float = 0.2
) -> list[Validation]:
    """Return a validation after every epoch of 100 steps, of a training of so many epochs."""
    epochs = of or len(train)
    rows = enumerate(zip(train, val, scores, strict=True), 1)
    return [Validation(100 * e, e / epochs, *row, chance) for e, row in rows]


LEARNS = history([1.0, 0.8, 0.6, 0.5, 0.45, 0.4], [1.1, 0.9, 0.7, 0.65, 0.6, 0.6], [0.3, 0.4, 0.5, 0.6, 0.62, 0.64])


def all_of(given: list[Validation]) -> list[str]:
    """Return all messages about a history, the latest validation being the last."""
    found = (
        class_unfound(given, 3, {}, ["time"]),
        overfitting(given, 3),
        at_chance(given, 3, 1e-3),
        frozen_backbone(given, 3),
        rising_loss(given, 3, 1e-3),
    )
    return [message for message in found if message is not None]


@pytest.mark.parametrize("length", range(7))
def test_a_training_that_learns_has_no_symptom_at_any_time(length: int) -> None:
    assert all_of(LEARNS[:length]) == []


@pytest.mark.parametrize("column", ["train_loss", "val_loss", "iou", "chance"])
def test_numbers_that_are_missing_are_no_symptom(column: str) -> None:
    missing = [each._replace(**{column: math.nan}) for each in LEARNS]
    assert all_of(missing) == []


@pytest.mark.parametrize("true", [(90, 10, 0), (40, 30, 30), (1, 1, 98)])
def test_chance_is_the_best_score_of_a_matrix_of_predictions_that_ignore_the_image(true: tuple[int, ...]) -> None:
    total = sum(true)
    constant = [torch.tensor([[n if k == c else 0 for k in range(3)] for n in true]) for c in range(3)]
    random = torch.tensor([[a * b for b in true] for a in true])
    best = max(float(mean(iou(matrix))) for matrix in (*constant, random))
    assert chance_iou([n / total for n in true]) == pytest.approx(best)


def test_chance_of_classes_that_overlap_is_the_best_of_masks_that_are_all_0_or_all_1() -> None:
    shares = [0.25, 0.5]
    scores = [
        [share if full else 0.0 for share, full in zip(shares, mask, strict=True)] for mask in product((0, 1), repeat=2)
    ]
    assert chance_iou(shares, exclusive=False) == max(sum(each) / 2 for each in scores) == 0.375
    assert math.isnan(chance_iou([0.0, 0.0]))


def test_a_class_is_unfound_below_a_hundredth_of_its_pixels_and_only_if_it_has_some() -> None:
    # rows truth: 100 of a, all right; 200 of b, 1 of them right; 100 of c, 1 of them right; none of d
    matrix = torch.tensor([[100, 0, 0, 0], [199, 1, 0, 0], [99, 0, 1, 0], [0, 0, 0, 0]])
    evaluator = SemanticEvaluator(["a", "b", "c", "d"])
    assert unfound_classes(evaluator.class_rows({"confusion": matrix})) == ("b",)
    assert unfound_classes([{"class": "a", "hit_rate": 0.0}]) == ()  # an evaluator of another task


def test_an_unfound_class_is_named_in_the_second_half_if_it_lasts() -> None:
    rare = [each._replace(unfound=("sky", "pole")) for each in LEARNS]
    message = class_unfound(rare[:3], 3, {"pole": 0.0042}, ["augment.class_crop=0.5 crops", "trainer.max_epochs=20"])
    assert message is not None
    assert "sky, pole (0.42% of the training pixels)." in message
    assert message.endswith(" Next: augment.class_crop=0.5 crops, trainer.max_epochs=20.")
    assert class_unfound([each._replace(progress=0.49) for each in rare], 3, {}, ["time"]) is None
    found = [*rare[:4], rare[4]._replace(unfound=("pole",)), rare[5]]
    assert "predicted: pole." in str(class_unfound(found, 3, {}, ["time"]))
    assert class_unfound([*found[:4], LEARNS[4], found[5]], 3, {}, ["time"]) is None


def test_a_class_is_not_unfound_if_no_training_pixel_has_it() -> None:
    rare = [each._replace(unfound=("sky", "pole")) for each in LEARNS]
    message = str(class_unfound(rare, 3, {"sky": 0.0, "pole": 0.001}, ["time"]))
    assert "predicted: pole (0.10% of the training pixels). Next: time." in message
    assert class_unfound(rare, 3, {"sky": 0.0, "pole": 0.0}, ["time"]) is None


# medians of three: training losses 0.8, 0.6, 0.5, 0.4; validation losses 0.9, 0.9, 1.2, 1.3; scores 0.5, 0.5, 0.4, 0.4
OVER = history([1.0, 0.8, 0.6, 0.5, 0.4, 0.3], [1.0, 0.9, 0.8, 1.2, 1.3, 1.4], [0.4, 0.5, 0.6, 0.4, 0.4, 0.3])


NO_OVERFITTING = [
    {"train_loss": 0.8},  # both get worse: that is no overfitting
    {"val_loss": 1.0},
    {"iou": 0.49},
    {"chance": 0.48},  # it never learned anything that it could lose
]


def test_overfitting_is_a_validation_that_gets_worse_while_the_training_loss_improves() -> None:
    message = overfitting(OVER, 3)
    assert message is not None
    assert "training loss fell from 0.800 to 0.400, but the validation loss rose from 0.900 to 1.200" in message
    assert "IoU fell from 0.500 to 0.400" in message
    assert all(move in message for move in ("augment=strong", "tuning=frozen", "tuning=lora", "finetune audit"))
    assert overfitting(OVER[:5], 3) is None
    recovered = [*OVER[:5], OVER[5]._replace(iou=0.5)]  # which a learning rate that is too high does now and then
    assert overfitting(recovered, 3) is None


@pytest.mark.parametrize("change", NO_OVERFITTING)
def test_overfitting_is_judged_by_the_latest_validations_of_a_long_history(change: dict[str, float]) -> None:
    before = history([1.2, 1.1, 1.1, 1.0], [1.3, 1.2, 1.1, 1.0], [0.1, 0.2, 0.3, 0.35])
    assert overfitting([*before, *OVER], 3) is not None
    assert overfitting([*before, *OVER[:3], *(each._replace(**change) for each in OVER[3:])], 3) is None


@pytest.mark.parametrize("column", ["train_loss", "val_loss", "iou"])
def test_a_symptom_is_not_seen_in_numbers_that_are_missing(column: str) -> None:
    for given, symptom in ((OVER, overfitting), (FLAT, frozen_backbone)):
        assert symptom(given, 3) is not None
        assert symptom([*given[:-3], *(each._replace(**{column: math.nan}) for each in given[-3:])], 3) is None


def test_noise_of_a_loss_near_zero_is_no_rise() -> None:
    falls = history([1.0, 0.9, 0.5, 0.1, 0.1, 0.1, 0.13, 0.13, 0.13], [1.0] * 9, [0.5] * 9)
    assert rising_loss(falls, 3, 1e-3) is None


@pytest.mark.parametrize("change", NO_OVERFITTING)
def test_overfitting_needs_all_of_its_signs(change: dict[str, float]) -> None:
    worse = [*OVER[:3], *(each._replace(**change) for each in OVER[3:])]
    assert overfitting(worse, 3) is None


def test_a_score_is_at_chance_if_none_was_better_after_a_tenth_of_the_training() -> None:
    stuck = history([1.0, 0.9, 0.8], [1.0, 1.0, 1.0], [0.2, 0.1, 0.23], of=30)  # up to 0.2 + 0.05 * 0.8 is chance
    message = at_chance(stuck, 3, lr=0.003)
    assert message is not None
    assert "the IoU is 0.230, and predictions that ignore the image would have 0.200: after 10% of" in message
    assert all(move in message for move in ("plots/augmentation.png", "finetune audit", "optimizer.lr=0.001"))
    assert at_chance([stuck[0]._replace(iou=0.25), *stuck[1:], stuck[2]], 3, 0.003) is None
    assert at_chance([each._replace(progress=each.progress / 2) for each in stuck], 3, 0.003) is None
    assert at_chance([each._replace(step=each.step // 10) for each in stuck], 3, 0.003) is None
    assert at_chance(stuck[:2], 3, 0.003) is None


def test_a_score_of_many_classes_that_is_several_times_chance_is_not_at_chance() -> None:
    learns = history([5.0, 4.9, 4.8], [5.0, 4.9, 4.8], [0.01, 0.03, 0.05], of=30, chance=1 / 300)
    assert at_chance(learns, 3, 1e-3) is None
    assert at_chance([each._replace(iou=1 / 200) for each in learns], 3, 1e-3) is not None


FLAT = history([2.0, 1.2, 1.1, 1.01, 1.0, 1.02, 1.0, 0.99, 1.0], [1.1] * 9, [0.4] * 9, of=18)


def test_a_frozen_backbone_holds_back_a_model_that_neither_fits_nor_learns_any_more() -> None:
    # medians of three: 1.2, 1.1, 1.01, 1.01, 1.0, 1.0, 1.0; a third of nine validations ago it was 1.01
    message = frozen_backbone(FLAT, 3)
    assert message is not None
    assert "was 1.010 a third of the time ago, is 1.000, and the IoU is 0.400" in message
    assert "tuning=discriminative" in message
    assert frozen_backbone(FLAT[:8], 3) is None  # before half of the training


@pytest.mark.parametrize(
    "change",
    [
        {"iou": 0.65},  # more than half way from 0.2 to 1
        {"val_loss": 1.3},  # it fits the training images better than others
        {"train_loss": 0.9},  # it still learns
    ],
)
def test_a_frozen_backbone_is_not_blamed_for_anything_else(change: dict[str, float]) -> None:
    assert frozen_backbone([*FLAT[:6], *(each._replace(**change) for each in FLAT[6:])], 3) is None


def test_a_frozen_backbone_is_not_blamed_for_a_score_that_never_left_chance() -> None:
    assert frozen_backbone([each._replace(iou=0.21) for each in FLAT], 3) is None


def test_a_training_loss_that_stays_well_above_an_earlier_one_asks_for_a_third_of_the_rate() -> None:
    losses = [1.0, 0.8, 0.6, 0.9, 1.0, 1.1]  # medians 0.8, 0.8, 0.9, 1.0
    diverged = history(losses, [1.0] * 6, [0.4] * 6)
    assert rising_loss(diverged[:5], 3, 3e-3) is None  # 0.9 is not 1.25 times 0.8
    assert rising_loss([*diverged, diverged[5]], 3, 3e-3) == (
        "the training loss has risen again, from 0.800 to 1.100: the learning rate is too high. "
        "Next: optimizer.lr=0.001."
    )


@pytest.mark.parametrize(
    "losses",
    [
        [1.0, 0.8, 0.6, 5.0, 0.5, 0.4, 0.3],  # one bad epoch
        [1.0, 0.5, 0.1, 0.02, 0.02, 0.04, 0.04, 0.04],  # noise near zero
    ],
)
def test_noise_of_a_training_loss_is_no_rise(losses: list[float]) -> None:
    given = history(losses, losses, [0.5] * len(losses))
    assert not any(rising_loss(given[:length], 3, 1e-3) for length in range(len(losses) + 1))
