"""How well outputs agree: by hand, and against the scores of an evaluator."""

import math

import pytest
import torch
from torch import Tensor

import finetune
from finetune.exporters.agreement import Agreement, Limits
from finetune.tasks import SemanticTask

INF, NAN = math.inf, math.nan


@pytest.fixture(scope="module")
def task() -> SemanticTask:
    """Return a task of two classes."""
    return SemanticTask(finetune.Segmenter("test_resnet", "linear", 2, weights="none"))


def logits_of(labels: list[int]) -> Tensor:
    """Return logits (1, 2, 1, W) of class indices."""
    return torch.nn.functional.one_hot(torch.tensor(labels), 2).T[None, :, None].float()


def test_labels_and_scores_are_those_of_a_hand_worked_case(task: SemanticTask) -> None:
    agreement = Agreement(task)
    target = torch.tensor([[[0, 0, 1, 255]]])
    agreement.add({"logits": logits_of([0, 0, 1, 1])}, {"logits": logits_of([0, 1, 1, 0])}, target)
    assert agreement.difference == 1.0
    assert agreement.equal_labels == 0.5
    assert agreement.images == 1
    assert agreement.scores() == ("iou", 1.0, 0.5)  # each class: one of two pixels
    assert agreement.problems(Limits(1, 0.5, 0.5)) == []
    assert len(agreement.problems(Limits(0.9, 0.4, 0.4))) == 3


def test_probabilities_give_the_labels_of_their_logits(task: SemanticTask) -> None:
    agreement = Agreement(task)
    logits = torch.randn(2, 2, 5, 7)
    agreement.add({"logits": logits}, {"logits": logits})
    probabilities = {"probabilities": logits.softmax(1)}
    agreement.add(probabilities, {"probabilities": 1 - probabilities["probabilities"]})
    assert agreement.equal_labels == 0.5


@pytest.mark.parametrize(
    ("theirs", "is_refused"),
    [
        ({"logits": torch.zeros(1, 2, 3, 3)}, False),
        ({"logits": torch.full((1, 2, 3, 3), NAN)}, True),
        ({"logits": torch.zeros(1, 2, 3, 4)}, True),
        ({"classes": torch.zeros(1, 3, 3)}, True),
    ],
    ids=["equal", "nan", "shape", "name"],
)
@pytest.mark.parametrize("limit", [1.0, INF])
def test_what_cannot_be_compared_is_refused(theirs: dict[str, Tensor], is_refused: bool, limit: float) -> None:
    agreement = Agreement()
    agreement.add({"logits": torch.zeros(1, 2, 3, 3)}, theirs)
    assert bool(agreement.problems(Limits(limit))) == is_refused


def test_a_difference_is_relative_to_numbers_above_one() -> None:
    agreement = Agreement()
    agreement.add({"logits": torch.tensor([[100.0]])}, {"logits": torch.tensor([[101.0]])})
    assert agreement.problems(Limits(difference=0.01)) == []
    assert agreement.problems(Limits(difference=0.009)) != []


def test_outputs_without_labels_are_compared_and_not_scored(task: SemanticTask) -> None:
    agreement = Agreement(task)
    agreement.add({"features": torch.ones(1, 2)}, {"features": torch.ones(1, 2)}, torch.tensor([[[0]]]))
    assert agreement.problems(Limits()) == []
    assert agreement.scores() is None


def test_images_without_a_scored_pixel_are_no_reason_to_refuse(task: SemanticTask) -> None:
    agreement = Agreement(task)
    agreement.add({"logits": logits_of([0])}, {"logits": logits_of([0])}, torch.tensor([[[255]]]))
    assert agreement.problems(Limits()) == []
