"""The figure of a learning-rate search."""

from pathlib import Path

import pytest
from PIL import Image

from finetune.plots.lr_curve import _loss_limits, lr_curve_figure

RATES = [10 ** (-6 + 0.07 * k) for k in range(100)]
SMOOTHED = [2.0 - 0.015 * k if k < 80 else 0.8 + 3 ** (k - 80) for k in range(100)]
LOSSES = [value + 0.1 * (-1) ** k for k, value in enumerate(SMOOTHED)]
SUGGESTIONS = {"valley": 3e-4, "steepest": 1e-3, "minimum": 4e-2}


def colors(path: Path) -> set[tuple[int, int, int]]:
    with Image.open(path) as image:
        assert min(image.size) > 300
        return {color for _, color in image.convert("RGB").getcolors(maxcolors=1_000_000)}


def test_curve_and_suggestions_are_drawn(tmp_path: Path) -> None:
    lr_curve_figure(RATES, LOSSES, SMOOTHED, SUGGESTIONS, tmp_path / "lr.png", chosen=3e-4)
    lr_curve_figure(RATES, LOSSES, SMOOTHED, {}, tmp_path / "bare.png")
    blue, orange, green = (0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00), (0x00, 0x9E, 0x73)
    assert {blue, orange, green} <= colors(tmp_path / "lr.png")
    assert blue in colors(tmp_path / "bare.png")
    assert not {orange, green} & colors(tmp_path / "bare.png")


@pytest.mark.parametrize("count", [1, 2])
def test_few_points_are_drawn_without_a_warning(count: int, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    lr_curve_figure(RATES[:count], [0.5] * count, [0.5] * count, {}, tmp_path / "lr.png")
    assert colors(tmp_path / "lr.png")
    assert [str(warning.message) for warning in recwarn] == []


def test_the_figure_shows_the_descent_and_cuts_off_the_divergence() -> None:
    bottom, top = _loss_limits([2.0, 1.0, 0.5, 90.0], [2.0, 1.5, 1.0, 30.0])
    assert (bottom, top) == pytest.approx((0.5 - 0.15, 2.0 + 0.15))


@pytest.mark.parametrize(("losses", "smoothed"), [([1.0], [1.0, 2.0]), ([1.0, 2.0], [1.0])])
def test_inputs_of_different_lengths_are_rejected(losses: list, smoothed: list, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 learning rates"):
        lr_curve_figure([1e-3, 1e-2], losses, smoothed, {}, tmp_path / "lr.png")


def test_an_empty_search_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one"):
        lr_curve_figure([], [], [], {}, tmp_path / "lr.png")
