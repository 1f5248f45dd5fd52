"""The files about probabilities, against counts worked out by hand."""

import csv
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from finetune.metrics.calibration import CELLS, RESOLUTION
from finetune.metrics.thresholds import STEPS
from finetune.reports.calibration import write_probabilities


def counted(*entries: tuple[int, int, int, float], groups: int = 1) -> Tensor:
    """Return counts from entries (group, pixels, right ones, confidence of each)."""
    counts = torch.zeros(groups, CELLS, 3, dtype=torch.int64)
    for group, pixels, right, confidence in entries:
        cell = int(confidence * CELLS + 0.5)
        counts[group, cell] = torch.tensor([pixels, right, round(pixels * confidence * RESOLUTION)])
    return counts


def test_the_error_and_the_bins_are_those_worked_out_by_hand(tmp_path: Path) -> None:
    counts = counted((0, 30, 15, 0.75), (0, 10, 9, 0.95))
    (line,) = write_probabilities(tmp_path, counts, ["sky", "sea", "land"], 1.5)
    content = json.loads((tmp_path / "calibration.json").read_text())
    assert content["ece"] == pytest.approx(30 / 40 * 0.25 + 10 / 40 * 0.05)
    assert (content["temperature"], content["pixels"], content["ece_of_classes"]) == (1.5, 40, {})
    assert line == "expected calibration error 0.2000 at temperature 1.5"
    filled = {index: each for index, each in enumerate(content["bins"]) if each["pixel_share"]}
    assert {index: tuple(each.values()) for index, each in filled.items()} == {
        11: pytest.approx((0.75, 0.5, 0.75)),
        14: pytest.approx((0.95, 0.9, 0.25)),
    }
    assert content["bins"][0] == {"confidence": None, "accuracy": None, "pixel_share": 0}
    assert min(Image.open(tmp_path / "calibration.png").size) > 100
    assert sorted(path.name for path in tmp_path.iterdir()) == ["calibration.json", "calibration.png"]


def test_the_error_of_masks_is_the_mean_of_those_of_the_classes(tmp_path: Path) -> None:
    counts = counted((0, 10, 5, 0.9), (1, 30, 27, 0.8), groups=2)
    write_probabilities(tmp_path, counts, ["a", "b"])
    content = json.loads((tmp_path / "calibration.json").read_text())
    assert content["ece_of_classes"] == pytest.approx({"a": 0.4, "b": 0.1})
    assert content["ece"] == pytest.approx(0.25)


def test_an_evaluation_without_a_pixel_has_no_error(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    write_probabilities(tmp_path, counted(), ["a", "b"])
    assert "NaN" not in (tmp_path / "calibration.json").read_text()
    assert json.loads((tmp_path / "calibration.json").read_text())["ece"] is None
    assert [str(warning.message) for warning in recwarn] == []


def test_the_scores_at_each_threshold_are_those_worked_out_by_hand(tmp_path: Path) -> None:
    counts = counted((0, 7, 6, 0.805), (0, 3, 2, 0.305), (0, 10, 0, 0.105))
    _, line = write_probabilities(tmp_path, counts, ["background", "pet"])
    with (tmp_path / "thresholds.csv").open(newline="") as file:
        rows = {row["threshold"]: row for row in csv.DictReader(file)}
    assert len(rows) == STEPS
    assert {row["class"] for row in rows.values()} == {"pet"}
    scores = [float(rows["0.5"][name]) for name in ("precision", "recall", "f1", "iou")]
    assert scores == pytest.approx([6 / 7, 6 / 8, 12 / 15, 6 / 9])
    assert float(rows["0.2"]["iou"]) == pytest.approx(8 / 10)
    assert rows["0.9"]["precision"] == ""
    assert line == (
        "best threshold on these images: threshold=0.21 for the probability of pet, IoU 0.8000 instead of 0.6667 at 0.5"
    )
    assert min(Image.open(tmp_path / "thresholds.png").size) > 100


def test_the_best_thresholds_of_masks_are_given_as_the_setting_to_type(tmp_path: Path) -> None:
    counts = counted((0, 1, 1, 0.605), (0, 5, 1, 0.205), (1, 2, 2, 0.905), (1, 2, 0, 0.705), groups=2)
    _, line = write_probabilities(tmp_path, counts, ["a", "b"])
    assert line == ("best thresholds on these images: threshold=[0.41,0.81], mean IoU 0.7500 instead of 0.5000 at 0.5")
