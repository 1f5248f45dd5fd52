"""The files of an evaluation, against counts worked out by hand."""

import csv
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from finetune.metrics.multilabel import MultilabelEvaluator
from finetune.metrics.overlaps import ImageResults
from finetune.metrics.semantic import SemanticEvaluator
from finetune.reports.evaluation import write_curves, write_evaluation

NAMES = ("sky", "sea", "land")
# the third class is absent from both truth and prediction
MATRIX = torch.tensor([[6, 2, 0], [1, 3, 0], [0, 0, 0]])
SEMANTIC, COUNTS = SemanticEvaluator(NAMES), {"confusion": MATRIX}


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_scores_equal_those_worked_out_by_hand(tmp_path: Path) -> None:
    scores = write_evaluation(tmp_path / "new" / "test", SEMANTIC, COUNTS)
    expected = {
        "iou": (6 / 9 + 3 / 6) / 2,
        "dice": (12 / 15 + 6 / 9) / 2,
        "f1": (12 / 15 + 6 / 9) / 2,
        "precision": (6 / 7 + 3 / 5) / 2,
        "recall": (6 / 8 + 3 / 4) / 2,
        "pixel_accuracy": 9 / 12,
        "frequency_weighted_iou": 8 / 12 * 6 / 9 + 4 / 12 * 3 / 6,
        "kappa": (9 / 12 - (8 * 7 + 4 * 5) / 144) / (1 - (8 * 7 + 4 * 5) / 144),
    }
    assert scores == pytest.approx(expected)
    assert json.loads((tmp_path / "new" / "test" / "scores.json").read_text()) == pytest.approx(expected)


def test_every_class_has_a_row_and_the_scores_of_an_absent_class_are_empty(tmp_path: Path) -> None:
    write_evaluation(tmp_path, SEMANTIC, COUNTS)
    rows = read_csv(tmp_path / "classes.csv")
    assert [row["class"] for row in rows] == list(NAMES)
    assert [float(row["pixel_share"]) for row in rows] == pytest.approx([8 / 12, 4 / 12, 0])
    assert float(rows[0]["iou"]) == pytest.approx(6 / 9)
    assert float(rows[1]["precision"]) == pytest.approx(3 / 5)
    assert [rows[2][key] for key in ("iou", "dice", "precision", "recall")] == [""] * 4


def test_the_confusion_matrix_is_written_with_true_classes_in_rows(tmp_path: Path) -> None:
    write_evaluation(tmp_path, SEMANTIC, COUNTS)
    rows = read_csv(tmp_path / "confusion.csv")
    assert list(rows[0].values()) == ["sky", "6", "2", "0"]
    assert [[int(row[name]) for name in NAMES] for row in rows] == MATRIX.tolist()


def test_class_names_may_contain_commas_and_quotes(tmp_path: Path) -> None:
    names = ("sky, blue", 'the "sea"', "land")
    write_evaluation(tmp_path, SemanticEvaluator(names), COUNTS)
    assert [row["class"] for row in read_csv(tmp_path / "classes.csv")] == list(names)


def test_scores_of_an_empty_matrix_are_null_in_json(tmp_path: Path) -> None:
    write_evaluation(tmp_path, SEMANTIC, {"confusion": torch.zeros(3, 3, dtype=torch.int64)})
    text = (tmp_path / "scores.json").read_text()
    assert "NaN" not in text
    assert set(json.loads(text).values()) == {None}


def test_the_figures_can_be_opened_and_no_other_file_is_written(tmp_path: Path) -> None:
    write_evaluation(tmp_path, SEMANTIC, COUNTS)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "classes.csv",
        "classes.png",
        "confusion.csv",
        "confusion.png",
        "scores.json",
    ]
    for name in ("classes.png", "confusion.png"):
        assert min(Image.open(tmp_path / name).size) > 100


def test_an_evaluation_without_a_confusion_matrix_has_no_files_of_one(tmp_path: Path) -> None:
    counts = {"outcomes": torch.tensor([[6, 2, 1, 3], [0, 0, 0, 12], [4, 0, 4, 4]])}
    scores = write_evaluation(tmp_path, MultilabelEvaluator(NAMES), counts)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["classes.csv", "classes.png", "scores.json"]
    assert json.loads((tmp_path / "scores.json").read_text()) == pytest.approx(scores)
    assert scores["iou"] == pytest.approx((6 / 9 + 4 / 8) / 2)
    assert [row["iou"] for row in read_csv(tmp_path / "classes.csv")] == [str(6 / 9), "", "0.5"]


def test_curves_are_drawn_from_a_table_with_gaps(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(
        "epoch,step,seconds,lr,train/loss,val/loss,val/iou,val/iou/sky\n"
        "1,2,0.5,0.001,2.5,,,\n"
        "2,4,0.5,0.001,2.0,2.1,0.3,\n"
        "3,6,0.5,0.0,1.5,1.9,0.4,0.2\n"
    )
    write_curves(tmp_path)
    figures = sorted((tmp_path / "plots").iterdir())
    assert [path.name for path in figures] == ["iou.png", "loss.png"]
    assert all(min(Image.open(path).size) > 100 for path in figures)


def test_the_table_of_images_has_further_columns_and_the_worst_image_first(tmp_path: Path) -> None:
    overlaps = torch.tensor([[[4, 5, 4], [1, 1, 2]], [[0, 0, 0], [0, 0, 0]], [[1, 4, 3], [0, 2, 3]]])
    images = ImageResults(torch.tensor([0, 2]), overlaps)
    counts = {"confusion": torch.tensor([[5, 4], [2, 1]])}
    columns = {"uncertainty": [0.25, 0.0, 0.75]}
    write_evaluation(tmp_path, SemanticEvaluator(NAMES[:2]), counts, images, ["a", "b", "c"], columns)
    rows = read_csv(tmp_path / "images.csv")
    assert [(row["image"], row["uncertainty"]) for row in rows] == [("c", "0.75"), ("a", "0.25")]
    assert list(rows[0]) == ["image", "iou", "uncertainty", "iou/sky", "iou/sea"]
