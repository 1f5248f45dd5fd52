"""The page of a heat map: its colors, its outline, and both forms of a prediction."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from finetune.plots.figures import similarity_figure
from finetune.plots.heat_map import HIGH, LOW, WIDTH, heat_map_page, heat_overlay
from finetune.plots.legend import INK
from finetune.plots.panels import GAP, LINE, MARGIN, light_gray

IMAGE = torch.full((3, 180, WIDTH), 100, dtype=torch.uint8)


def heat_column(prediction: torch.Tensor, heat: np.ndarray, region: torch.Tensor) -> np.ndarray:
    page = np.asarray(heat_map_page(IMAGE, prediction, heat, region, ["sky", "sea"], "gradcam: sea"))
    left, top = MARGIN + 2 * (WIDTH + GAP), MARGIN + LINE
    assert page.shape[1] == left + WIDTH + MARGIN
    return page[top : top + 180, left : left + WIDTH]


def test_the_highest_value_is_red_the_lowest_blue_and_0_gray() -> None:
    image = np.arange(36, dtype=np.uint8).reshape(1, 12, 3)
    heat = np.zeros((1, 12), dtype=np.float32)
    heat[0, 3], heat[0, 5] = 2, -2
    colored = heat_overlay(image, heat)
    assert tuple(colored[0, 3]) == HIGH
    assert tuple(colored[0, 5]) == LOW
    rest = heat[0] == 0
    assert np.array_equal(colored[:, rest], light_gray(image)[:, rest])
    assert np.array_equal(heat_overlay(image, heat * 0), light_gray(image))
    assert np.array_equal(heat_overlay(image, np.abs(heat) + 5), heat_overlay(image, np.abs(heat)))


@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_region_is_outlined_on_the_heat_map_of_either_form(dimensions: int) -> None:
    labels = torch.zeros(180, WIDTH, dtype=torch.uint8)
    labels[40:80, 100:200] = 1
    prediction = labels if dimensions == 2 else torch.stack([labels, 1 - labels])
    heat = np.zeros((180, WIDTH), dtype=np.float32)
    heat[60, 150] = 1
    column = heat_column(prediction, heat, labels)
    outline = (column == INK).all(axis=-1)
    expected = np.zeros((180, WIDTH), dtype=bool)
    expected[40:80, 100:200] = True
    expected[41:79, 101:199] = False
    assert np.array_equal(outline, expected)
    assert tuple(column[60, 150]) == HIGH


def test_the_similarity_figure_has_bars_as_long_as_the_values(tmp_path: Path) -> None:
    path = tmp_path / "cka.png"
    similarity_figure([("stem", 1.0), ("block", 0.5), ("constant", float("nan"))], path)
    pixels = np.asarray(Image.open(path).convert("RGB"))
    blue = (pixels == (0, 114, 178)).all(axis=-1).sum(axis=1)
    lengths = [int(length) for length in np.unique(blue[blue > 20])]
    assert max(lengths) == pytest.approx(2 * min(lengths), rel=0.02)
