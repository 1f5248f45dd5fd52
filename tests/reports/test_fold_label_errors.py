"""The label errors of several folds are ranked together, and runs that are no folds are refused."""

import csv
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image

import finetune
from finetune.config.errors import ConfigError
from finetune.reports.fold_label_errors import join_label_errors
from tests.reports.test_run_page import Page

AREA = "label,predicted,pixels,probability,left,top,right,bottom"


def fold(run: Path, contradicted: Mapping[str, int], trained: str, folder: str = "val") -> Path:
    """Write a run with an evaluation, whose images with contradicted pixels have an area and a picture each."""
    at = run / "evaluation" / folder
    (at / "label_errors").mkdir(parents=True)
    (at / "scores.json").write_text("{}")
    (run / "config.yaml").touch()
    splits = [*((name, "val") for name in contradicted), (trained, "train")]
    (run / "splits.csv").write_text("\n".join(["image,split", *map(",".join, splits)]))
    rows = [f"{name},0.5,{count},{'' if not count else 1 / count}" for name, count in contradicted.items()]
    (at / "images.csv").write_text("\n".join(["image,iou,label_contradicted,label_quality", *rows]))
    found = [name for name, count in contradicted.items() if count]
    areas = [f"{name},sky,wall,{contradicted[name]},0.01,1,2,30,40" for name in found]
    (at / "label_errors.csv").write_text("\n".join([f"image,{AREA}", *areas]))
    for number in range(len(found)):
        Image.new("RGB", (60, 40), (contradicted[found[number]], 0, 0)).save(at / f"label_errors/{number:03}.jpg")
    return run


def test_the_images_of_all_folds_are_ranked_together(tmp_path: Path) -> None:
    first = fold(tmp_path / "0", {"a": 70, "b": 0, "c": 200}, trained="d")
    second = fold(tmp_path / "1", {"d": 90, "<i>e</i>": 100, "f": 0}, trained="a")
    path = finetune.report(f"run=[{first},{second}]", "label_errors=3")
    assert path == first / "label_errors_of_folds.html"
    with path.with_suffix(".csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == ["c", "<i>e</i>", "d", "a", "b", "f"]
    assert [row["evaluation"] for row in rows[:2]] == [str(first / "evaluation/val"), str(second / "evaluation/val")]
    page = Page(path.read_text())
    assert len(page.sources) == 3  # as wanted, of four that have areas
    assert "in 3 of 6 images" in page.text
    captions = [word for word in page.words if "labeled sky" in word]
    assert [caption.split(":")[0] for caption in captions] == ["c", "<i>e</i>", "d"]
    assert "100 pixels labeled sky, seen as wall, x 1 to 30, y 2 to 40" in captions[1]


def test_the_latest_evaluation_that_looked_for_wrong_labels_counts(tmp_path: Path) -> None:
    run = fold(tmp_path / "run", {"a": 1, "b": 2}, trained="c")
    fold(run, {"a": 3, "b": 0}, trained="c", folder="val_2")
    later = run / "evaluation" / "val_3"
    later.mkdir()
    (later / "images.csv").write_text("image,iou\na,0.5\n")
    for age, name in enumerate(("val", "val_2", "val_3")):
        os.utime(run / "evaluation" / name / "images.csv", (age, age))
    assert [(row["image"], row["label_contradicted"]) for row in join_label_errors([run])] == [("a", "3"), ("b", "0")]


def test_runs_that_are_no_folds_are_refused(tmp_path: Path) -> None:
    first = fold(tmp_path / "0", {"a": 70}, trained="b")
    same = fold(tmp_path / "1", {"a": 70}, trained="b")
    with pytest.raises(ConfigError, match=r"0/evaluation/val' both have a\. Expected runs of different folds"):
        finetune.report(f"run=[{first},{same}]", "label_errors=5")
    seen = fold(tmp_path / "2", {"c": 70}, trained="d")
    (seen / "splits.csv").write_text("image,split\nc,train\n")
    with pytest.raises(ConfigError, match=r"has images that the run was trained on: c\."):
        finetune.report(f"run=[{first},{seen}]", "label_errors=5")
    (first / "evaluation" / "val" / "images.csv").write_text("image,iou\na,0.5\n")
    with pytest.raises(ConfigError, match=r"finetune evaluate run=\S+0 split=val label_errors=50"):
        finetune.report(f"run={first}", "label_errors=5")
    with pytest.raises(ConfigError, match="label_errors=-1: expected a number of images"):
        finetune.report(f"run={first}", "label_errors=-1")
    assert not list(tmp_path.rglob("label_errors_of_folds.*"))
