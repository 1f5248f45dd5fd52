"""Labels that were made wrong on purpose are found, with their places."""

import csv
from itertools import product
from operator import itemgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from finetune.inference import ClassIndices
from finetune.metrics.label_doubt import LabelDoubt
from finetune.metrics.measurement import ImageBatch
from finetune.reports.label_errors import find_label_errors, label_errors_text, write_label_errors

NAMES = ("ground", "wall", "sky")


def softened(truth: Tensor, generator: torch.Generator) -> Tensor:
    """Return probabilities (1, K, H, W) of a model that is mostly right: it is unsure at edges, and sometimes wrong."""
    guess = truth.clone()
    wrong = torch.rand(truth.shape, generator=generator) < 0.02
    guess[wrong] = torch.randint(0, 3, truth.shape, generator=generator, dtype=truth.dtype)[wrong]
    logits = torch.nn.functional.one_hot(guess.long(), 3).permute(2, 0, 1)[None].float()
    return (8 * torch.nn.functional.avg_pool2d(logits, 3, stride=1, padding=1)).softmax(1)


def test_of_sixty_images_the_five_with_wrong_labels_are_among_the_first_eight(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    doubt = LabelDoubt(60, 255)
    dataset: Any = []
    probabilities: list[Tensor] = []
    wrong = {7: 0, 19: 2, 20: 2, 41: 0, 59: 2}  # image -> label of a square that has another class
    for index in range(60):
        truth = torch.zeros(48, 64, dtype=torch.uint8)
        truth[16:, : int(torch.randint(20, 60, (), generator=generator))] = 1
        truth[:12] = 2
        truth[:, 60:] = 255
        probabilities.append(softened(torch.where(truth == 255, 0, truth), generator))
        if index in wrong:
            truth[20:32, 5:17] = wrong[index]
        image = torch.full((3, 48, 64), index, dtype=torch.uint8)
        dataset.append({"image": image, "mask": truth, "index": index})
        prediction = probabilities[-1].argmax(1)
        doubt.update(ImageBatch(torch.tensor([index]), image[None], probabilities[-1], prediction, truth[None]))
    order = doubt.sums()["contradicted"].argsort(descending=True, stable=True)[:8].tolist()
    assert set(wrong) <= set(order)
    assert set(wrong) <= set(doubt.sums()["quality"].argsort()[:8].tolist())

    def predict(images: Tensor) -> tuple[Tensor, Tensor]:
        found = probabilities[int(images[0, 0, 0, 0])]
        return found.argmax(1).to(torch.uint8), found

    predictor: Any = SimpleNamespace(output=ClassIndices(NAMES), class_names=NAMES, predict_with_probabilities=predict)
    images = ListWithRecords(dataset)
    areas = write_label_errors(tmp_path, predictor, images, itemgetter("mask"), order, 255)
    assert [area.image for area in areas] == [f"photo_{index}" for index in order if index in wrong]
    for area in areas:
        assert (area.left, area.top, area.right, area.bottom) == pytest.approx((5, 20, 17, 32), abs=1)
        assert area.predicted == "wall"
        assert 100 <= area.pixels <= 144
        assert area.probability < 0.05
    with (tmp_path / "label_errors.csv").open(newline="") as file:
        assert [row["label"] for row in csv.DictReader(file)] == [area.label for area in areas]
    page = (tmp_path / "label_errors.html").read_text()
    assert page.count("<img") == 5
    assert f"photo_{order[0]}" in page
    assert "areas 5, images 5;" in label_errors_text(areas, tmp_path)


class ListWithRecords(list[Any]):
    """A data set whose images have names."""

    def __init__(self, samples: list[Any]) -> None:
        super().__init__(samples)
        self.records = [SimpleNamespace(name=f"photo_{index}") for index in range(len(samples))]


def test_nothing_is_written_where_the_model_agrees(tmp_path: Path) -> None:
    truth = torch.zeros(20, 20, dtype=torch.uint8)
    probabilities = torch.tensor([0.99, 0.01, 0.0]).view(1, 3, 1, 1).expand(1, 3, 20, 20)
    predictor: Any = SimpleNamespace(
        class_names=NAMES, predict_with_probabilities=lambda images: (truth, probabilities)
    )
    dataset = ListWithRecords([{"image": torch.zeros(3, 20, 20, dtype=torch.uint8), "mask": truth}])
    areas = write_label_errors(tmp_path, predictor, dataset, itemgetter("mask"), [0], 255)  # type: ignore[arg-type]
    assert areas == list(tmp_path.iterdir()) == []
    assert label_errors_text(areas, tmp_path).startswith("no area")


def test_each_pair_of_classes_has_areas_of_its_own_and_small_ones_are_left_out() -> None:
    truth = torch.zeros(1, 20, 30, dtype=torch.uint8)
    seen = torch.zeros(1, 20, 30, dtype=torch.int64)
    seen[0, :10, :10], seen[0, :10, 10:16], seen[0, 19, :5] = 1, 2, 1  # 100, 60 and 5 pixels
    probabilities = torch.nn.functional.one_hot(seen, 3).permute(0, 3, 1, 2).float()
    areas = find_label_errors("a", probabilities, truth, NAMES, 255)
    assert [(area.predicted, area.pixels, area.left, area.right) for area in areas] == [
        ("wall", 100, 0, 10),
        ("sky", 60, 10, 16),
    ]


def test_a_mask_of_a_class_may_lack_it_or_have_it_wrongly() -> None:
    truth = torch.zeros(1, 2, 10, 20, dtype=torch.uint8)
    truth[0, 1, :, 10:] = 1
    probabilities = torch.zeros(1, 2, 10, 20)
    probabilities[0, 0, :, :10] = 0.99  # the model sees the first class left, where the mask lacks it
    areas = find_label_errors("a", probabilities, truth, ("cat", "dog"), 255)
    assert [(area.label, area.predicted, area.left) for area in areas] == [
        ("not cat", "cat", 0),
        ("dog", "not dog", 10),
    ]


def test_areas_are_those_that_opencv_finds_for_each_pair_of_classes() -> None:
    generator = torch.Generator().manual_seed(3)
    coarse = [torch.randint(0, 3, (6, 8), generator=generator) for _ in range(2)]
    truth, seen = (each.repeat_interleave(10, 0).repeat_interleave(10, 1) for each in coarse)
    probabilities = (torch.nn.functional.one_hot(seen, 3).permute(2, 0, 1)[None] * 20.0).softmax(1)
    found = find_label_errors("a", probabilities, truth[None].to(torch.uint8), NAMES, 255)
    expected = []
    for label, other in product(range(3), repeat=2):
        wrong = ((truth == label) & (seen == other)).numpy().astype(np.uint8) * (label != other)
        _, _, boxes, _ = cv2.connectedComponentsWithStats(wrong, connectivity=4)
        expected += [(NAMES[label], NAMES[other], *box) for box in boxes[1:].tolist()]
    assert len(expected) > 5
    ours = [(e.label, e.predicted, e.left, e.top, e.right - e.left, e.bottom - e.top, e.pixels) for e in found]
    assert sorted(ours) == sorted(expected)
