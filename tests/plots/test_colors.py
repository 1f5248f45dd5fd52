"""Palettes and colored masks."""

import itertools

import numpy as np
import pytest
import torch

from finetune.plots.colors import IGNORED, colorize, overlay, palette


@pytest.mark.parametrize("classes", [1, 2, 11, 150, 256])
def test_a_palette_has_a_different_color_for_each_class(classes: int) -> None:
    colors = palette(classes)
    assert len(set(colors)) == classes
    assert IGNORED not in colors
    assert all(type(channel) is int and 0 <= channel <= 255 for color in colors for channel in color)


def test_a_longer_palette_begins_with_the_shorter() -> None:
    assert palette(256)[:19] == palette(19)


def test_changing_a_palette_does_not_change_the_next_one() -> None:
    palette(3).clear()
    assert len(palette(3)) == 3


def test_the_background_is_dark_and_the_first_colors_are_clearly_different() -> None:
    colors = np.array(palette(11), dtype=float)
    assert colors[0].max() < 80
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(colors, 2)) > 60


@pytest.mark.parametrize("classes", [0, 257])
def test_an_unsupported_palette_size_is_rejected(classes: int) -> None:
    with pytest.raises(ValueError, match=f"got {classes} classes"):
        palette(classes)


@pytest.mark.parametrize("ignore_index", [255, 3, -100])
def test_every_pixel_has_the_color_of_its_class(ignore_index: int) -> None:
    mask = np.array([[0, 1, 2], [2, 1, ignore_index]])
    colors = palette(3)
    expected = [[colors[0], colors[1], colors[2]], [colors[2], colors[1], IGNORED]]
    for labels in (mask, torch.from_numpy(mask)):
        colored = colorize(labels, colors, ignore_index)
        assert colored.dtype == np.uint8
        assert colored.tolist() == np.array(expected).tolist()


def test_all_256_classes_can_be_colored_from_uint8_masks() -> None:
    mask = torch.arange(256, dtype=torch.uint8).view(16, 16)
    colored = colorize(mask, palette(256), ignore_index=-100)
    assert colored.reshape(-1, 3).tolist() == np.array(palette(256)).tolist()


def test_a_label_without_a_color_is_rejected() -> None:
    with pytest.raises(ValueError, match="label 7, but there are 3 colors"):
        colorize(np.array([[0, 7, 255]]), palette(3))
    with pytest.raises(ValueError, match="label 3, but there are 3 colors"):
        colorize(np.array([[0, 3, 255]]), palette(3))


def test_an_overlay_blends_by_alpha_and_does_not_change_ignored_pixels() -> None:
    image = np.full((1, 2, 3), 100, dtype=np.uint8)
    colors = [(200, 0, 50)]
    assert overlay(image, np.array([[0, 255]]), colors, alpha=0.25).tolist() == [[[125, 75, 88], [100, 100, 100]]]
    assert overlay(image, np.array([[0, 255]]), colors, alpha=1.0).tolist() == [[[200, 0, 50], [100, 100, 100]]]
    assert (image == 100).all()
