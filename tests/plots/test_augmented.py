from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from finetune.plots import augmentation_figure, palette
from finetune.plots.panels import GAP, MARGIN


def cells(path: Path, width: int, heights: list[int], top: int) -> list[list[np.ndarray]]:
    """Return the four images in each row of a page."""
    page = np.asarray(Image.open(path))
    lefts = [MARGIN + k * (width + GAP) for k in range(4)]
    tops = [top + sum(heights[:k]) + k * GAP for k in range(len(heights))]
    return [[page[y : y + h, x : x + width] for x in lefts] for y, h in zip(tops, heights, strict=True)]


@pytest.mark.parametrize("channels", [1, 3, 6])
def test_each_image_stands_left_of_its_mask_and_ignored_pixels_are_hatched(channels: int, tmp_path: Path) -> None:
    samples = []
    for k in range(3):
        mask = torch.full((20, 40), k, dtype=torch.uint8)
        mask[:10] = 7
        samples.append((torch.full((channels, 20, 40), 50 * k, dtype=torch.uint8), mask))
    path = tmp_path / "plots" / "page.png"
    augmentation_figure(samples, ["sky", "sea", "sand"], path, ignore_index=7, width=40)
    (first, first_mask, second, second_mask), (third, third_mask, *rest) = cells(path, 40, [20, 20], MARGIN + 24)
    for k, (image, mask) in enumerate([(first, first_mask), (second, second_mask), (third, third_mask)]):
        assert (image == 50 * k).all()
        blend = np.rint(0.4 * 50 * k + 0.6 * np.array(palette(3)[k]))
        assert (mask[10:] == blend).all()
        assert set(np.unique(mask[:10])) == {150, 240}
    assert all((cell == 255).all() for cell in rest)


def test_masks_with_channels_have_a_color_for_each_set_of_classes(tmp_path: Path) -> None:
    mask = torch.zeros(2, 8, 40, dtype=torch.uint8)
    mask[0, :, 10:30] = 1
    mask[1, :, 20:] = 1
    augmentation_figure([(torch.zeros(3, 8, 40, dtype=torch.uint8), mask)], ["a", "b"], tmp_path / "p.png", width=40)
    colored = cells(tmp_path / "p.png", 40, [8], MARGIN + 24)[0][1]
    none, a, b = palette(3)
    both = np.rint((np.array(a) + b) / 2)
    expected = np.repeat(np.array([none, a, both, b]), 10, axis=0)
    assert np.abs(colored - np.rint(0.6 * expected)).max() <= 1


def test_images_of_any_shape_fit_on_the_page(tmp_path: Path) -> None:
    sizes = [(8, 300), (300, 8), (50, 50), (1, 1)]
    samples = [(torch.zeros(3, *size, dtype=torch.uint8), torch.zeros(size, dtype=torch.uint8)) for size in sizes]
    augmentation_figure(samples, ["one"], tmp_path / "p.png", width=60)
    assert Image.open(tmp_path / "p.png").width == 4 * 60 + 3 * GAP + 2 * MARGIN
