from collections import Counter

import numpy as np
import pytest
from PIL import Image

from finetune.data.masks.contents import MOST_VALUES, count, read_contents
from finetune.data.records import DataError


@pytest.mark.parametrize("seed", range(5))
def test_counts_equal_those_of_a_counter(seed):
    values = np.random.default_rng(seed).integers(-3, 9, (13, 17))
    assert count(values) == dict(Counter(values.ravel().tolist()))


def test_a_photograph_does_not_fill_the_memory_with_counts():
    assert len(count(np.arange(10 * MOST_VALUES).reshape(10, -1))) == MOST_VALUES


def test_only_pixels_with_four_equal_neighbors_are_inside(write):
    mask = np.zeros((7, 7), np.uint8)
    mask[1:4, 1:4], mask[5, :] = 5, 9  # a block with one pixel inside, and a line
    contents = read_contents(write("m.png", mask))
    assert (contents.size, contents.kind, contents.lossy) == ((7, 7), "gray", False)
    assert contents.pixels == {0: 33, 5: 9, 9: 7}
    assert contents.interior == {0: 3, 5: 1}


def test_palettes_give_indices_with_their_colors(tmp_path):
    image = Image.fromarray(np.array([[0, 1, 1]], np.uint8), mode="P")
    image.putpalette([0, 0, 0, 255, 128, 0, 9, 9, 9])
    image.save(tmp_path / "p.png")
    contents = read_contents(tmp_path / "p.png")
    assert (contents.kind, contents.palette) == ("palette", {1: 0xFF8000, 0: 0})
    assert contents.by_color == {1: 0xFF8000, 0: 0}


def test_colors_are_counted_and_gray_saved_as_color_is_gray(write):
    colors = np.array([[[255, 0, 1], [255, 0, 1], [0, 0, 0]]], np.uint8)
    contents = read_contents(write("c.png", colors))
    assert (contents.kind, contents.pixels) == ("color", {0xFF0001: 2, 0: 1})
    assert read_contents(write("g.png", np.full((2, 2, 3), 7, np.uint8))).kind == "gray"


def test_jpeg_is_lossy_and_a_broken_file_is_named(write, tmp_path):
    assert read_contents(write("m.jpg", 255)).lossy
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"bad\.png"):
        read_contents(tmp_path / "bad.png")


@pytest.mark.parametrize("kind", ["gray", "palette", "color", "array"])
def test_large_masks_are_counted_in_parts(tmp_path, monkeypatch, kind):
    pytest.importorskip("tifffile")
    pytest.importorskip("imagecodecs")
    values = np.random.default_rng(0).integers(0, 3, (10, 13)).repeat(4, 0).repeat(4, 1).astype(np.uint8)
    image = Image.fromarray(values)
    if kind == "palette":
        image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    if kind == "color":  # gray but for a corner
        colors = np.dstack([values * 100] * 3)
        colors[36:, 48:] = (255, 0, 0)
        image = Image.fromarray(colors)
    path = tmp_path / ("m.npy" if kind == "array" else "m.tif")
    np.save(path, values) if kind == "array" else image.save(path)
    whole = read_contents(path)
    monkeypatch.setattr("finetune.data.masks.contents.PART", (16, 24))
    assert read_contents(path, any_size=True) == whole
