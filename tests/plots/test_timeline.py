"""Timelines: lanes, curves, colors and phases."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from finetune.plots import timeline
from finetune.plots.timeline import timeline_figure

NAN = float("nan")
NAMES = ["stem", "decoder", "head"]
EPOCHS = [0.0, 1.0, 2.0, 4.0]
RATES = np.array([[NAN, NAN, 1e-3], [NAN, 1e-3, 1e-3], [1e-4, 5e-4, 5e-4], [1e-5, 0.0, 1e-9]])


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Collect the figures instead of writing them, to inspect their content."""
    figures: list[Figure] = []
    monkeypatch.setattr(
        Figure, "savefig", lambda self, path, **options: figures.append(self)
    )  # writing takes most of the time
    return figures


def gradual(groups: int, samples: int = 240, epochs: float = 24.0) -> tuple[list[str], NDArray, NDArray, list[float]]:
    """Return a plan that unfreezes one group after another from the head down, with a cosine schedule."""
    names = [f"block {k}" for k in range(groups - 2)] + ["decoder", "head"]
    at = np.linspace(0, epochs, samples, endpoint=False)
    begins = np.linspace(epochs * 0.7, 0, groups).round()
    rates = 1e-3 * np.geomspace(0.02, 1, groups) * np.cos(at / epochs * np.pi / 2)[:, None]
    return names, at, np.where(at[:, None] >= begins, rates, NAN), sorted(set(begins))


@pytest.mark.parametrize("groups", [2, 60, *(pytest.param(count, marks=pytest.mark.slow) for count in (3, 10))])
def test_any_number_of_groups_is_drawn_without_a_warning(
    groups: int, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    timeline_figure(*gradual(groups), tmp_path / "timeline.png")
    with Image.open(tmp_path / "timeline.png") as image:
        assert image.width < 1.5 * 1300
        assert image.height > 16 * groups
        assert len(image.convert("RGB").getcolors(maxcolors=1_000_000)) > 100
    assert [str(warning.message) for warning in recwarn] == []


def test_lanes_are_colored_where_a_group_trains_and_hatched_where_it_is_frozen(
    figures: list[Figure], tmp_path: Path
) -> None:
    timeline_figure(NAMES, EPOCHS, RATES, [], tmp_path / "timeline.png")
    lanes = figures[0].axes[1]
    cells = lanes.collections[0]
    shades = np.ma.getdata(cells.get_array()).reshape(3, 4)
    shown = ~np.ma.getmaskarray(cells.get_array()).reshape(3, 4)
    assert np.array_equal(shown, ~np.isnan(RATES.T))
    assert cells.get_coordinates()[0, :, 0].tolist() == [0, 1, 2, 4, 6]
    assert lanes.patch.get_hatch() == "////"
    # the color scale ends four decades below the highest rate, plus a margin; lower rates and 0 have the last color
    assert shades[2] == pytest.approx([1e-3, 1e-3, 5e-4, 1e-7 / 1.5])
    assert shades[1, 1:] == pytest.approx([1e-3, 5e-4, 1e-7 / 1.5])


def test_lanes_are_in_the_order_of_the_model_with_their_highest_rate(figures: list[Figure], tmp_path: Path) -> None:
    rates = np.column_stack([RATES, np.full(4, NAN)])
    timeline_figure([*NAMES, "unused"], EPOCHS, rates, [], tmp_path / "timeline.png")
    lanes = figures[0].axes[1]
    assert [label.get_text() for label in lanes.get_yticklabels()] == [*NAMES, "unused"]
    assert not lanes.yaxis_inverted()
    notes = sorted((note.xy[1], note.get_text()) for note in lanes.texts)
    assert notes == [(0, "1e-4"), (1, "1e-3"), (1, "highest"), (2, "1e-3"), (3, "-")]


def test_frozen_spans_are_gray_and_others_are_not(tmp_path: Path) -> None:
    def gray_fraction(rates: NDArray) -> float:
        timeline_figure(["a", "b"], range(4), rates, [], tmp_path / "timeline.png")
        with Image.open(tmp_path / "timeline.png") as image:
            pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
        gray = np.array([int(to_hex(timeline.LIGHT_GRAY)[k : k + 2], 16) for k in (1, 3, 5)])
        return float((pixels == gray).all(axis=1).mean())

    trained = np.full((4, 2), 1e-3)
    half = np.where(np.arange(4)[:, None] < 2, NAN, trained)
    one, two = (gray_fraction(rates) - gray_fraction(trained) for rates in (half, np.full((4, 2), NAN)))
    assert two == pytest.approx(2 * one, rel=0.15)
    assert one > 0.02


def test_there_is_a_curve_for_each_group_that_trains_or_for_the_first_and_the_last(
    figures: list[Figure], tmp_path: Path
) -> None:
    names, at, rates, begins = gradual(10)
    rates[:, 0] = NAN
    timeline_figure(NAMES, EPOCHS, RATES, [], tmp_path / "few.png")
    timeline_figure(names, at, rates, begins, tmp_path / "many.png")
    few, many = ([curve.get_label() for curve in figure.axes[0].patches] for figure in figures)
    assert few == NAMES
    assert many == ["block 1", "head"]
    curve = figures[0].axes[0].patches[0].get_data()
    assert curve.values == pytest.approx([NAN, NAN, 1e-4, 1e-5], nan_ok=True)
    assert curve.edges.tolist() == [0, 1, 2, 4, 6]
    assert [legend_texts(figure) for figure in figures] == [["frozen", *few], ["frozen", *many]]


def test_groups_with_equal_rates_share_a_curve_and_its_color(figures: list[Figure], tmp_path: Path) -> None:
    rates = np.repeat([[1e-4, 1e-3]], [6, 2], axis=1).repeat(4, axis=0)
    timeline_figure([f"block {k}" for k in range(8)], EPOCHS, rates, [], tmp_path / "timeline.png")
    assert legend_texts(figures[0]) == ["block 0 and 5 more", "block 6, block 7"]
    colors = [label.get_color() for label in figures[0].axes[1].get_yticklabels()]
    assert colors == [timeline.BLUE] * 6 + [timeline.GREEN] * 2


def legend_texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def test_the_color_bar_and_the_axis_of_the_curves_are_the_same_scale(figures: list[Figure], tmp_path: Path) -> None:
    timeline_figure(NAMES, EPOCHS, RATES, [], tmp_path / "timeline.png")
    curves, bar = figures[0].axes[0], figures[0].axes[0].child_axes[0]
    assert bar.get_ylim() == pytest.approx(curves.get_ylim())
    assert bar.get_yscale() == curves.get_yscale() == "log"


def test_phases_are_separated_by_lines_and_numbered(figures: list[Figure], tmp_path: Path) -> None:
    timeline_figure(NAMES, EPOCHS, RATES, [0, 2, 2, 1, 6, 9], tmp_path / "timeline.png")
    curves, lanes = figures[0].axes[:2]
    for axes in (curves, lanes):
        assert sorted(line.get_xdata()[0] for line in axes.lines) == [1, 2]
    assert [(note.xy[0], note.get_text()) for note in curves.texts] == [
        (0.5, "phase 1"),
        (1.5, "phase 2"),
        (4, "phase 3"),
    ]


def test_a_run_in_which_nothing_trains_is_drawn(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    timeline_figure(["a"], [0], np.full((1, 1), NAN), [], tmp_path / "timeline.png")
    assert (tmp_path / "timeline.png").stat().st_size > 0
    assert [str(warning.message) for warning in recwarn] == []


@pytest.mark.parametrize("shape", [(4, 2), (3, 3), (12,)])
def test_rates_of_the_wrong_shape_are_rejected(shape: tuple[int, ...], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="4 epochs and 3 names"):
        timeline_figure(NAMES, EPOCHS, np.ones(shape), [], tmp_path / "timeline.png")


def test_a_timeline_without_samples_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="0 epochs and 3 names"):
        timeline_figure(NAMES, [], np.ones((0, 3)), [], tmp_path / "timeline.png")


def test_epochs_that_are_not_ascending_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="fall from 4 to 2"):
        timeline_figure(NAMES, [0, 1, 4, 2], RATES, [], tmp_path / "timeline.png")
