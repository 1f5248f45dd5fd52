"""Scores of 1, 2, 3 and 4 ranks, digit for digit: against each other, a NumPy loop, and what is usual."""

import math
from fractions import Fraction
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from finetune.data import CLASS_NAMES
from finetune.losses import CEDice
from finetune.models import Segmenter
from finetune.tasks.loss_mean import LossMean
from tests.engine.many_ranks import BATCH_SIZES, EPOCHS, LENGTHS, USUAL, WORLD_SIZES, Mixed, fixed_task, results

CASES = list(product(LENGTHS, BATCH_SIZES))
SEVERAL = WORLD_SIZES[1:]
Result = dict[str, Any]
Ranks = dict[int, list[Result]]


@pytest.fixture(scope="module")
def ranks() -> Ranks:
    """Return what each rank of each world size kept."""
    return results()


def digits(result: Result) -> dict[str, Any]:
    """Return the matrix, and everything that was logged, to the last bit; NaN is equal to NaN."""
    return {"matrix": result["matrix"].tolist(), **logged_digits(result["logged"])}


def logged_digits(logged: dict[str, Tensor]) -> dict[str, str]:
    return {name: float(value).hex() for name, value in logged.items()}


@pytest.mark.parametrize(("length", "batch_size"), CASES)
def test_every_rank_of_every_world_size_logs_the_same_digits(ranks: Ranks, length: int, batch_size: int) -> None:
    alone = digits(ranks[1][0]["evaluations"][length, batch_size])
    assert len(alone) == 10 + len(CLASS_NAMES)
    for size in SEVERAL:
        for rank in ranks[size]:
            assert digits(rank["evaluations"][length, batch_size]) == alone, size


def predicted(model: Segmenter, count: int) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """Truth, prediction and loss of every image by itself; no loss where no pixel counts."""
    found = []
    for index in range(count):
        sample = Mixed(count)[index]
        with torch.no_grad():
            logits = model.eval()(model.normalize(sample["image"][None]))
        loss = float(CEDice()(logits, sample["mask"][None]))
        found.append((sample["mask"].numpy(), logits[0].argmax(0).numpy(), loss))
    return found


@cache
def fixed_predictions() -> list[tuple[np.ndarray, np.ndarray, float]]:
    return predicted(fixed_task().model, max(LENGTHS))


def numpy_matrix(predictions: list[tuple[np.ndarray, np.ndarray, float]]) -> np.ndarray:
    matrix = np.zeros((len(CLASS_NAMES),) * 2, dtype=np.int64)
    for truth, prediction, _ in predictions:
        np.add.at(matrix, (truth[truth != 255], prediction[truth != 255]), 1)
    return matrix


def numpy_scores(matrix: np.ndarray) -> dict[str, float]:
    """Return the scores by their definitions, class by class."""
    per_class: dict[str, list[float]] = {name: [] for name in ("iou", "dice", "precision", "recall")}
    for label, hits in enumerate(matrix.diagonal()):
        true, claimed = matrix[label].sum(), matrix[:, label].sum()
        parts = (hits, true + claimed - hits), (2 * hits, true + claimed), (hits, claimed), (hits, true)
        for name, (part, whole) in zip(per_class, parts, strict=True):
            per_class[name].append(part / whole if whole else math.nan)
    means = {name: np.nanmean(values) for name, values in per_class.items()}
    classes = {f"iou/{name}": value for name, value in zip(CLASS_NAMES, per_class["iou"], strict=True)}
    share, accuracy = matrix.sum(1) / matrix.sum(), matrix.trace() / matrix.sum()
    weighted = sum(part * iou for part, iou in zip(share, per_class["iou"], strict=True) if part)
    chance = (share * matrix.sum(0) / matrix.sum()).sum()
    kappa = (accuracy - chance) / (1 - chance)
    whole = {"pixel_accuracy": accuracy, "frequency_weighted_iou": weighted, "kappa": kappa}
    return {**means, "f1": means["dice"], **whole, **classes}


@pytest.mark.parametrize(("length", "batch_size"), CASES)
def test_matrix_scores_and_loss_are_those_of_a_numpy_loop(ranks: Ranks, length: int, batch_size: int) -> None:
    predictions = fixed_predictions()[:length]
    matrix = numpy_matrix(predictions)
    losses = [loss for truth, _, loss in predictions if (truth != 255).any()]
    scores = {**numpy_scores(matrix), "loss": math.fsum(losses) / len(losses)}
    expected = {f"val/{name}": float(np.float32(score)).hex() for name, score in scores.items()}
    found = digits(ranks[1][0]["evaluations"][length, batch_size])
    assert found == {"matrix": matrix.tolist(), **expected}


def test_the_cases_are_not_trivial() -> None:
    predictions = fixed_predictions()
    assert len({truth.shape for truth, _, _ in predictions}) == 3
    assert [(truth == 255).all() for truth, _, _ in predictions] == [index == 3 for index in range(max(LENGTHS))]
    assert sum((truth == 255).any() for truth, _, _ in predictions) > 5
    matrix = numpy_matrix(predictions)
    assert not matrix[4].any()
    assert not matrix[:, 4].any()
    assert (matrix.sum(axis=0) > 0).sum() >= 2


@pytest.mark.parametrize("size", SEVERAL)
def test_an_evaluation_reduces_matrix_and_loss_once_however_many_images(ranks: Ranks, size: int) -> None:
    for rank in ranks[size]:
        for case in CASES:
            # Lightning asks first whether all ranks have a batch: one number. The matrix has the count of bad outputs
            # with it.
            assert [n for n in rank["evaluations"][case]["reduced"] if n > 1] == [25 + 1, 2], case
            assert len(rank["evaluations"][case]["reduced"]) <= 3


@pytest.mark.parametrize("size", SEVERAL)
def test_every_rank_logs_the_same_digits_in_float32_too(ranks: Ranks, size: int) -> None:
    for rank in ranks[size]:
        assert digits(rank["in_float32"]) == digits(ranks[1][0]["in_float32"])


@pytest.mark.parametrize("size", SEVERAL)
def test_what_is_usual_gives_other_digits_for_another_world_size(ranks: Ranks, size: int) -> None:
    for length in USUAL:
        alone, found = ranks[1][0]["usual"][length], ranks[size][0]["usual"][length]
        assert digits(found) != digits(alone), length
        repeated = found["matrix"].sum() > alone["matrix"].sum()
        assert repeated == (length % size > 0), length
        same_mean = found["logged"]["val/batch_iou"] == alone["logged"]["val/batch_iou"]
        assert same_mean == (length == 1), length


@pytest.mark.parametrize(("size", "one"), [(2, 1.25), (3, 5 / 3), (4, 1.25)])
def test_means_of_batches_are_wrong_without_padding_too(ranks: Ranks, size: int, one: float) -> None:
    alone = ranks[1][0]["unpadded"]
    for rank in ranks[size]:
        found = rank["unpadded"]
        assert float(found["logged"]["val/one"]) == pytest.approx(one)  # the mean of nothing but ones
        assert found["logged"]["val/batch_iou"] != alone["logged"]["val/batch_iou"]
        ours = {name for name in alone["logged"] if name not in ("val/one", "val/batch_iou")}
        assert len(ours) == 9 + len(CLASS_NAMES)
        assert all(float(found["logged"][name]) == float(alone["logged"][name]) for name in ours)
        assert torch.equal(found["matrix"], alone["matrix"])


@pytest.mark.parametrize("size", SEVERAL)
def test_all_ranks_of_a_training_log_stop_and_save_alike(ranks: Ranks, size: int) -> None:
    first, *others = (rank["training"] for rank in ranks[size])
    for other in others:
        assert [digits(seen) for seen in other["seen"]] == [digits(seen) for seen in first["seen"]]
        assert logged_digits(other["last"]) == logged_digits(first["last"])
        assert other["decided"] == first["decided"]
    scores = [float(seen["logged"]["val/iou"]) for seen in first["seen"]]
    assert 2 <= len(scores) < EPOCHS
    assert [seen["stops"] for seen in first["seen"]] == [False] * (len(scores) - 1) + [True]
    assert first["decided"]["epochs"] == len(scores)
    assert first["decided"]["best"][0]["score"] == first["decided"]["stopping"]["best_score"] == max(scores)
    assert "train/loss" in first["last"]


@pytest.mark.parametrize("size", SEVERAL)
def test_ranks_that_see_different_images_of_a_validation_score_all_of_them(ranks: Ranks, size: int) -> None:
    epochs = list(zip(*(rank["training"]["seen"] for rank in ranks[size]), strict=True))
    for seen in epochs:
        own = [rank["own"] for rank in seen]
        assert torch.equal(sum(own), seen[0]["matrix"])
        assert len({str(matrix.tolist()) for matrix in own}) == size


@pytest.mark.parametrize("size", WORLD_SIZES)
def test_scores_inside_a_training_are_those_of_one_process_with_its_weights(ranks: Ranks, size: int) -> None:
    for seen in ranks[size][0]["training"]["seen"]:
        task = fixed_task()
        task.load_state_dict(seen["state"])
        assert numpy_matrix(predicted(task.model, 5)).tolist() == seen["matrix"].tolist()


@pytest.mark.parametrize("size", SEVERAL)
def test_boundaries_distances_and_objects_are_those_of_one_rank(ranks: Ranks, size: int) -> None:
    alone = ranks[1][0]["measured"]
    assert (alone["distances"] > 0).any(-1).sum() > 9
    for rank in ranks[size]:
        assert all(torch.equal(rank["measured"][name], values) for name, values in alone.items())


def test_losses_add_up_without_rounding_however_they_are_dealt_out() -> None:
    generator = torch.Generator().manual_seed(0)
    losses = torch.rand(1000, generator=generator).mul(16).sub(12).exp2()  # 1/4096 to 16
    exact = sum(Fraction(loss) for loss in losses.tolist())
    rounded = set()
    for ranks in range(1, 8):
        means = [LossMean() for _ in range(ranks)]
        for index, loss in enumerate(losses):
            means[index % ranks].add(loss, torch.tensor(True))
        total, count = sum(mean.state(torch.device("cpu")) for mean in means)
        assert Fraction(total.item()) == exact
        assert count == 1000
        rounded.add(float(sum(losses[rank::ranks].cumsum(0)[-1] for rank in range(ranks))))
    assert len(rounded) > 1  # in float32 they would not
