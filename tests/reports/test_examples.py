"""Which images of an evaluation are drawn, in which order."""

from operator import itemgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image

from finetune.metrics.overlaps import ImageResults
from finetune.reports.examples import write_examples


def test_the_worst_and_the_best_images_are_drawn_but_none_without_a_score(tmp_path: Path) -> None:
    drawn: list[list[int]] = []

    def preview(rows: list[tuple[Any, Any, Any]], ignore_index: int, uncertainty: list[Any]) -> Image.Image:
        drawn.append([int(image) for image, _, _ in rows])
        assert all(int(prediction) == 10 * int(image) for image, _, prediction in rows)
        assert [each.tolist() for each in uncertainty] == [
            [[1.0]] if int(image) % 2 else [[0.0]] for image, _, _ in rows
        ]
        return Image.new("RGB", (1, 1))

    output = SimpleNamespace(preview=preview)
    predicted: list[int] = []

    def predict_with_probabilities(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        predicted.append(int(images))
        share = 0.5 if int(images) % 2 else 1.0
        return 10 * images, torch.tensor([share, 1 - share]).view(1, 2, 1, 1)

    predictor: Any = SimpleNamespace(output=output, predict_with_probabilities=predict_with_probabilities)
    dataset: Any = [{"image": torch.tensor(index), "mask": torch.tensor(0)} for index in range(8)]
    both = torch.tensor([5, 1, 9, 3, 8, 2, 0, 4])
    overlaps = torch.stack([both, torch.full((8,), 10), both], dim=-1).view(8, 1, 3)
    overlaps[6] = 0  # neither true nor predicted
    seen = torch.tensor([0, 1, 2, 3, 4, 6, 7])  # 5 was not evaluated
    write_examples(tmp_path, predictor, dataset, itemgetter("mask"), ImageResults(seen, overlaps), ignore_index=255)
    assert drawn == [[1, 3, 7, 0], [2, 4, 0, 7]]
    assert sorted(predicted) == [0, 1, 2, 3, 4, 7]  # each once
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.png", "worst.png"]


def test_nothing_is_drawn_where_no_image_has_a_score(tmp_path: Path) -> None:
    nothing: Any = None
    images = ImageResults(torch.tensor([0]), torch.zeros(1, 2, 3, dtype=torch.int64))
    write_examples(tmp_path, nothing, nothing, nothing, images, ignore_index=255)
    assert list(tmp_path.iterdir()) == []
