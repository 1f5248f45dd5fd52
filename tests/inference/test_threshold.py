"""The threshold of predictions: pixel by pixel, and against the curve of an evaluation."""

import csv
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import finetune
from finetune.builders.task import restore_pixel_output
from finetune.config.errors import ConfigError
from finetune.inference import ClassIndices
from tests.samples import draw_folder, on_folder

pytestmark = pytest.mark.usefixtures("without_figures")
NAMES = ("ground", "wall")


def test_a_pixel_has_the_second_class_from_the_threshold_on() -> None:
    second = torch.tensor([[[0.1, 0.299, 0.301], [0.5, 0.8, 1.0]]])
    logits = torch.stack([1 - second, second], dim=1).log()
    for threshold, count in ((0.0, 6), (0.3, 4), (0.9, 1), (1.0, 1)):
        decoded = ClassIndices(NAMES, threshold).decode(logits)
        assert decoded.dtype == torch.uint8
        assert decoded.tolist() == (second >= threshold).int().tolist()
        assert decoded.sum() == count
    assert ClassIndices(NAMES).decode(logits).sum() == 2  # 0.5 is no majority


@pytest.mark.parametrize(
    ("settings", "names", "threshold", "message"),
    [
        ({"name": "semantic"}, ("a", "b", "c"), 0.3, "threshold=0.3: of 3 classes, a pixel has the likeliest one"),
        ({"name": "semantic"}, NAMES, 1.5, "expected a number from 0 to 1"),
        ({"name": "semantic"}, NAMES, [0.3, 0.4], "2 thresholds for 1 classes"),
        ({"name": "multilabel", "thresholds": [0.5, 0.5]}, NAMES, [0.1, 0.2, 0.3], "3 thresholds for 2 classes"),
    ],
)
def test_a_threshold_that_does_not_fit_is_refused(settings: Any, names: Any, threshold: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        restore_pixel_output(settings, names, threshold)


def test_a_threshold_replaces_those_of_a_multilabel_model() -> None:
    settings = {"name": "multilabel", "thresholds": [0.5, 0.6]}
    assert restore_pixel_output(settings, NAMES).options() == {"thresholds": [0.5, 0.6]}
    assert restore_pixel_output(settings, NAMES, 0.2).options() == {"thresholds": [0.2, 0.2]}
    assert restore_pixel_output(settings, NAMES, [0.2, 0.7]).options() == {"thresholds": [0.2, 0.7]}
    assert settings["thresholds"] == [0.5, 0.6]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    photos = draw_folder(tmp_path_factory.mktemp("photos"), values=(0, 1))
    overrides = ("data.classes=[ground,wall]", "optimizer.lr=1e-3", f"output={tmp_path_factory.mktemp('run')}")
    return finetune.train(*on_folder(photos), *overrides).folder


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_an_evaluation_at_a_threshold_has_the_scores_of_the_curve(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    curve = rows_of(finetune.evaluate(f"run={copy}", "split=all").folder / "thresholds.csv")
    ious = set()
    for row in (curve[10], curve[70]):
        folder = finetune.evaluate(f"run={copy}", "split=all", f"threshold={row['threshold']}").folder
        assert "all_threshold" in folder.name
        wall = rows_of(folder / "classes.csv")[1]
        assert float(wall["iou"]) == pytest.approx(float(row["iou"]), abs=1e-3)  # pixels at the edge of a cell
        ious.add(wall["iou"])
    assert len(ious) > 1
    with pytest.raises(ConfigError, match="thresholds=x: expected a number from 0 to 1"):
        finetune.evaluate(f"run={copy}", "threshold=x")


def test_predictions_at_a_threshold_are_never_mixed_with_others(run: Path, tmp_path: Path) -> None:
    photos = draw_folder(tmp_path / "photos", ["a"], values=(0, 1))
    command = (f"run={run}", f"input={photos / 'images'}", f"output={tmp_path / 'out'}", "write=[]")
    masks = finetune.predict(*command, "threshold=0")
    image = photos / "images" / "a.png"
    assert (finetune.load(run, threshold=0).predict(image)[image] == 1).all()
    assert (ClassIndices(NAMES).load(masks[0]) == 1).all()
    with pytest.raises(ConfigError, match="nothing is ever overwritten"):
        finetune.predict(*command)
