"""Rows of images: their sizes and pixels."""

import numpy as np
import pytest
import torch
from torch import Tensor

from finetune.plots import error_map, palette, panel, preview
from finetune.plots.panels import GAP, WRONG, as_rgb

Sample = tuple[Tensor, Tensor, Tensor]


def sample(height: int, width: int, classes: int, channels: int = 3) -> Sample:
    generator = torch.Generator().manual_seed(height + classes)
    image = torch.randint(0, 256, (channels, height, width), generator=generator, dtype=torch.uint8)
    truth, prediction = torch.randint(0, classes, (2, height, width), generator=generator, dtype=torch.uint8)
    truth[0] = 255
    return image, truth, prediction


def test_the_error_map_marks_exactly_the_wrong_pixels() -> None:
    image, truth, prediction = sample(20, 30, classes=3)
    marked = (error_map(as_rgb(image), truth, prediction) == WRONG).all(axis=-1)
    assert np.array_equal(marked, ((truth != prediction) & (truth != 255)).numpy())
    assert 0 < marked.sum() < marked.size


def test_the_error_map_marks_nothing_on_a_red_image_without_errors() -> None:
    image = np.full((8, 8, 3), WRONG, dtype=np.uint8)
    labels = np.zeros((8, 8), dtype=np.uint8)
    assert not (error_map(image, labels, labels) == WRONG).all(axis=-1).any()


def test_a_panel_shows_image_truth_prediction_and_errors_in_this_order() -> None:
    image, truth, prediction = sample(10, 12, classes=3)
    colors = palette(3)
    row = np.asarray(panel(image, truth, prediction, colors))
    assert row.shape == (10, 4 * 12 + 3 * GAP, 3)
    first, second, third, fourth = (row[:, k * (12 + GAP) :][:, :12] for k in range(4))
    assert np.array_equal(first, image.permute(1, 2, 0).numpy())
    assert np.array_equal(second[1:], np.array(colors)[truth[1:]])
    assert np.array_equal(third, np.array(colors)[prediction])
    assert np.array_equal(fourth, error_map(as_rgb(image), truth, prediction))


def test_ignored_pixels_are_hatched_in_truth_and_errors_but_not_in_the_prediction() -> None:
    image, truth, prediction = sample(30, 30, classes=2)
    truth[:] = 255
    row = np.asarray(panel(image, truth, prediction, palette(2)))
    truth_tile, error_tile = row[:, 30 + GAP :][:, :30], row[:, 3 * (30 + GAP) :]
    assert np.array_equal(truth_tile, error_tile)
    assert len(np.unique(truth_tile.reshape(-1, 3), axis=0)) == 2
    assert not (error_tile == WRONG).all(axis=-1).any()


@pytest.mark.parametrize("classes", [1, 11, 150])
def test_the_width_of_a_preview_does_not_depend_on_the_images(classes: int) -> None:
    rows = [sample(30, 40, classes), sample(200, 50, classes), sample(700, 900, classes, channels=1)]
    names = [f"class number {k}" for k in range(classes)]
    page = preview(rows, names, palette(classes), width=100)
    assert page.width == preview(rows[:1], names, palette(classes), width=100).width == 28 + 4 * 100 + 3 * GAP
    assert page.height > 75 + 150 + 77


def test_the_legend_shows_all_of_few_classes_and_only_the_visible_ones_of_many() -> None:
    image, truth, prediction = sample(30, 40, classes=2)
    few, many, visible = ([f"class {k}" for k in range(count)] for count in (24, 150, 2))
    rows = [(image, truth, prediction)]
    assert preview(rows, many, palette(150)).size == preview(rows, visible, palette(2)).size
    assert preview(rows, few, palette(24)).height > preview(rows, visible, palette(2)).height


@pytest.mark.slow
def test_long_names_do_not_widen_a_preview() -> None:
    names = ["a name that is far longer than the page is wide " * 10, "b"]
    rows = [sample(30, 40, classes=2)]
    assert preview(rows, names, palette(2)).width == preview(rows, ["a", "b"], palette(2)).width


@pytest.mark.parametrize("channels", [1, 3, 4, 6])
def test_images_of_any_channel_count_become_rgb(channels: int) -> None:
    image = sample(5, 4, 2, channels)[0]
    from_tensor = as_rgb(image)
    assert from_tensor.shape == (5, 4, 3)
    assert np.array_equal(from_tensor, as_rgb(image.permute(1, 2, 0).numpy()))
    assert np.array_equal(from_tensor[..., 0], image[0].numpy())


def test_a_normalized_image_is_rejected() -> None:
    with pytest.raises(ValueError, match="is float32, expected uint8"):
        as_rgb(torch.rand(3, 4, 4))


def test_a_fifth_column_shows_uncertain_pixels_in_red() -> None:
    image, mask = np.full((20, 30, 3), 128, dtype=np.uint8), np.zeros((20, 30), dtype=np.uint8)
    uncertain = np.zeros((20, 30), dtype=np.float32)
    uncertain[:, :15] = 1
    page = np.asarray(preview([(image, mask, mask)], ["a", "b"], palette(2), width=30, uncertainty=[uncertain]))
    assert page.shape[1] == 28 + 5 * 30 + 4 * GAP
    last = page[:, 14 + 4 * (30 + GAP) : -14]
    reds = (last == np.array(WRONG)).all(-1)
    assert reds[:, :13].any()
    assert not reds[:, 18:].any()
