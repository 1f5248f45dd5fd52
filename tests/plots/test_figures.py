"""Figures are written, are not empty, and do not use pyplot."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from finetune.metrics.confusion import iou
from finetune.plots import class_bars_figure, confusion_figure, curves_figure
from finetune.plots.figures import _best_epoch, _compact, _percent

ROWS = [
    {"epoch": 1, "lr": 1e-3, "train/loss": 1.0, "val/loss": 1.1, "val/iou": 0.3},
    {"epoch": 2, "lr": 8e-4, "train/loss": 0.7},
    {"epoch": 3, "lr": 4e-4, "train/loss": 0.5, "val/loss": 0.8, "val/iou": 0.6},
    {"epoch": 4, "lr": 1e-4, "train/loss": 0.4, "val/loss": 0.9, "val/iou": 0.6},
]


def counts(classes: int) -> Tensor:
    """Return a confusion matrix whose last class is absent, unless it is the only one."""
    matrix = torch.randint(0, 50, (classes, classes), generator=torch.Generator().manual_seed(0))
    matrix += torch.diag(torch.full((classes,), 500))
    if classes > 1:
        matrix[-1], matrix[:, -1] = 0, 0
    return matrix


def assert_drawn(path: Path) -> None:
    with Image.open(path) as image:
        assert min(image.size) > 100
        assert len(image.convert("RGB").getcolors(maxcolors=1_000_000)) > 20


@pytest.mark.parametrize("classes", [1, 11, 20, 31, pytest.param(150, marks=pytest.mark.slow)])
def test_confusions_and_class_bars_are_drawn_for_any_number_of_classes(classes: int, tmp_path: Path) -> None:
    matrix, names = counts(classes), [f"class {k}" for k in range(classes)]
    pixel_fraction = matrix.sum(dim=1).double() / matrix.sum()
    confusion_figure(matrix, names, tmp_path / "confusion.png")
    class_bars_figure(iou(matrix), pixel_fraction, names, tmp_path / "classes.png")
    assert_drawn(tmp_path / "confusion.png")
    assert_drawn(tmp_path / "classes.png")


@pytest.mark.parametrize("classes", [3, 40])
def test_an_empty_matrix_is_drawn_without_a_warning(
    classes: int, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    matrix, names = torch.zeros(classes, classes, dtype=torch.int64), [str(k) for k in range(classes)]
    confusion_figure(matrix, names, tmp_path / "confusion.png")
    class_bars_figure(iou(matrix), torch.zeros(classes), names, tmp_path / "classes.png")
    assert [str(warning.message) for warning in recwarn] == []


def test_a_matrix_of_many_classes_without_confusions_is_drawn(tmp_path: Path) -> None:
    confusion_figure(torch.eye(40, dtype=torch.int64), [str(k) for k in range(40)], tmp_path / "confusion.png")
    assert (tmp_path / "confusion.png").stat().st_size > 0


def test_curves_are_written_to_two_files(tmp_path: Path) -> None:
    files = curves_figure(ROWS, tmp_path)
    assert [file.name for file in files] == ["loss.png", "iou.png"]
    for file in files:
        assert_drawn(file)


def test_a_run_without_validation_has_only_a_loss_curve(tmp_path: Path) -> None:
    files = curves_figure([{"epoch": 1, "train/loss": 1.0}], tmp_path)
    assert files == list(tmp_path.iterdir()) == [tmp_path / "loss.png"]


def test_without_logged_values_no_figure_is_written(tmp_path: Path) -> None:
    assert curves_figure([], tmp_path) == []


def test_the_best_epoch_is_the_first_with_the_highest_score() -> None:
    assert _best_epoch(ROWS) == ((3, 0.6), "val/iou")
    assert _best_epoch([{"epoch": 1, "val/iou": float("nan")}, {"epoch": 2}]) == (None, "val/iou")
    assert _best_epoch([{"epoch": 1, "val/mask_ap": 0.2}, {"epoch": 2}]) == ((1, 0.2), "val/mask_ap")
    assert _best_epoch([{"epoch": 1}]) == (None, "")


@pytest.mark.parametrize(
    ("count", "text"), [(7, "7"), (999, "999"), (1234, "1.2k"), (9990, "10.0k"), (34_000_000, "34M"), (2.5e9, "2.5G")]
)
def test_counts_and_percentages_are_abbreviated(count: int, text: str) -> None:
    assert _compact(count) == text
    assert _percent(0.004) == "<1%"


def test_drawing_never_loads_pyplot_and_importing_never_loads_matplotlib(tmp_path: Path) -> None:
    code = (
        "import sys, finetune.plots as p\n"
        "assert 'matplotlib' not in sys.modules\n"
        f"p.curves_figure([{{'epoch': 1, 'train/loss': 1.0}}], __import__('pathlib').Path({str(tmp_path)!r}))\n"
        "assert 'matplotlib.figure' in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
