"""Every figure is whole: no text is cut off, whatever the names, the number of classes or of epochs."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from finetune.metrics.confusion import iou
from finetune.plots import class_bars_figure, confusion_figure, curves_figure, preview, timeline_figure
from finetune.plots.colors import palette
from finetune.plots.legend import font
from finetune.plots.lr_curve import lr_curve_figure
from finetune.plots.text import LONGEST, columns, shorten
from tests.plots.test_figures import counts

NAMES: dict[str, Callable[[int], str]] = {
    "one letter": lambda k: chr(97 + k % 26),
    "seven letters": lambda k: f"class{k:02d}",
    "forty letters": lambda k: f"a building facade with very many windows {k}"[-40:],
    "Cyrillic": lambda k: f"дорога и тротуар {k}",
    "umlauts": lambda k: f"Grünfläche {k}",
    "dollars": lambda k: f"${k}$ $_$ \\x",
}
WIDE = {"Chinese": lambda k: f"\u9053\u8def\u4eba\u884c\u9053{k}"}


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """Compare the box of each text with the saved part of the figure, whenever a figure is saved."""
    saved: list[Path] = []
    save = Figure.savefig

    def checked(figure: Figure, path: Path, **options: object) -> None:
        save(figure, path, **options)
        saved.append(path)
        renderer = figure.canvas.get_renderer()
        box = figure.get_tightbbox(renderer).padded(0.05)
        for text in _drawn(figure):
            left, bottom, right, top = (value / figure.dpi for value in text.get_window_extent(renderer).extents)
            assert box.x0 <= left < right <= box.x1, text
            assert box.y0 <= bottom < top <= box.y1, text

    monkeypatch.setattr(Figure, "savefig", checked)
    yield saved
    assert saved
    for path in saved:  # another way to see it: nothing touches the edge of the image
        pixels = np.asarray(Image.open(path).convert("RGB"))
        edge = np.concatenate([pixels[:2].reshape(-1, 3), pixels[-2:].reshape(-1, 3), pixels[:, :2].reshape(-1, 3)])
        assert (edge > 250).all(), path
        assert (pixels[:, -2:] > 250).all(), path


def _drawn(figure: Figure) -> list[Text]:
    """Return the texts that can be seen; matplotlib has labels for ticks outside of an axis, too."""
    labels, shown = set(), []
    for axis in (axis for axes in figure.findobj(Axes) for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
            labels |= {tick.label1, tick.label2}
            shown += [tick.label1] if low <= tick.get_loc() <= high else []
    texts = [text for text in figure.findobj(Text) if text not in labels] + shown
    return [text for text in texts if text.get_visible() and text.get_text().strip()]


@pytest.mark.parametrize("kind", list(NAMES))
@pytest.mark.parametrize("classes", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (15, 30, 150))])
def test_figures_of_classes_are_whole(kind: str, classes: int, whole: list[Path], tmp_path: Path) -> None:
    matrix, names = counts(classes), [NAMES[kind](k) for k in range(classes)]
    confusion_figure(matrix, names, tmp_path / "confusion.png")
    class_bars_figure(iou(matrix), matrix.sum(dim=1).double() / matrix.sum(), names, tmp_path / "classes.png")


@pytest.mark.parametrize("epochs", [2, *(pytest.param(count, marks=pytest.mark.slow) for count in (1, 500))])
def test_figures_of_epochs_are_whole(epochs: int, whole: list[Path], tmp_path: Path) -> None:
    rows = [
        {"epoch": epoch, "lr": 1e-3 / epoch, "train/loss": 1 / epoch, "val/loss": 1.1, "val/iou": epoch / 1000}
        for epoch in range(1, epochs + 1)
    ]
    curves_figure(rows, tmp_path)
    names = ["backbone:stem", "backbone:stages.0.a_group_with_a_long_name", "decoder", "head"]
    rates = np.full((epochs, 4), 1e-3)
    rates[: epochs // 2, 0] = np.nan
    timeline_figure(names, range(epochs), rates, [epochs / 2], tmp_path / "timeline.png")
    losses = np.linspace(2, 1, 30)
    lr_curve_figure(np.logspace(-6, 0, 30), losses, losses, {"valley": 1e-3, "steep": 1e-2}, tmp_path / "lr.png", 1e-3)


@pytest.mark.parametrize("kind", [*NAMES, *WIDE])
def test_the_legend_of_a_preview_is_on_the_page(kind: str) -> None:
    names = [(NAMES | WIDE)[kind](k) for k in range(12)]
    mask = torch.arange(12).repeat_interleave(4).repeat(20, 1)
    image = torch.full((3, *mask.shape), 255, dtype=torch.uint8)
    page = np.asarray(preview([(image, mask, mask)], names, palette(12), width=40))
    assert (page[:, -3:] == 255).all()
    assert (page[-1] == 255).all()


def test_names_are_shortened_to_a_width_and_one_line() -> None:
    assert shorten("road") == "road"
    assert shorten("a\nb\tc") == "a b c"
    assert shorten("x" * LONGEST) == "x" * LONGEST
    assert shorten("a" * LONGEST + "bc") == "a" * (LONGEST // 2) + "…" + "a" * (LONGEST // 2 - 3) + "bc"
    assert len({shorten(f"a building facade with many windows {k}") for k in range(20)}) == 20
    assert columns(shorten("\u9053" * 40)) <= LONGEST


def test_a_name_is_shortened_to_any_width() -> None:
    assert [shorten("building", width) for width in (1, 2, 3)] == ["…", "b…", "bu…"]


@pytest.mark.parametrize("text", ["Straße", "café", "Łódź", "niño", "Größe…"])
def test_letters_with_accents_are_drawn_and_no_boxes(text: str) -> None:
    drawn = font(24, text)
    box = drawn.getmask("\ufffe").getbbox()  # what stands for a letter that the font lacks
    missing = [bytes(drawn.getmask(letter)) for letter in ("\ufffe", "\uffff")]
    assert box is None or len(set(missing)) == 1
    assert all(bytes(drawn.getmask(letter)) not in missing for letter in text)
