"""The files with boundary scores, and the table on the page of a run."""

import csv
import json
from pathlib import Path

import pytest
import torch

from finetune.metrics.image_boundaries import ImageBoundaries
from finetune.metrics.measurement import ImageBatch
from finetune.reports.boundaries import boundary_text, write_boundaries
from finetune.reports.run_page import run_page

NAMES = ("sky", "<b>pole</b>", "star")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return an evaluation of three images: a pole four pixels off, a pixel taken for a pole, and a right one."""
    target = torch.zeros(3, 20, 20, dtype=torch.uint8)
    target[[0, 2], :, 10] = 1
    prediction = target.clone()
    prediction[0], prediction[1, 3, 3] = target[0].roll(4, 1), 1
    measurement = ImageBoundaries(4, 3, 255)  # of a fourth image, which was not evaluated
    empty = torch.empty(0)
    measurement.update(ImageBatch(torch.arange(3), empty, empty, prediction, target))
    path = tmp_path / "run" / "evaluation" / "test"
    path.mkdir(parents=True)
    means = write_boundaries(path, measurement.sums(), NAMES, ["a", "b", "c", "d"])
    plain = {name: None if value != value else value for name, value in means.items()}
    assert json.loads((path / "boundaries.json").read_text()) == plain
    return path


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_class_has_a_row_and_an_absent_one_has_no_scores(folder: Path) -> None:
    sky, pole, star = read_csv(folder / "boundaries.csv")
    assert (sky["class"], pole["class"], star["class"]) == NAMES
    assert float(pole["boundary_iou"]) == 20 / (20 + 20 + 1 + 20)
    assert float(pole["hausdorff_px"]) == (4 + 0) / 2
    assert [pole[name] for name in ("compared", "one_sided", "objects", "detected")] == ["2", "1", "2", "0.5"]
    assert [pole[name] for name in ("predicted_objects", "false_alarms")] == ["3", "2"]
    assert float(pole["boundary_recall_2px"]) == 0.5
    assert [star[name] for name in ("boundary_iou", "hd95_px", "detected", "compared")] == ["", "", "", "0"]


def test_the_distances_of_each_image_and_class_are_listed_the_largest_first(folder: Path) -> None:
    rows = read_csv(folder / "distances.csv")
    assert {(row["image"], row["class"]) for row in rows} == {
        ("a", "sky"),
        ("a", NAMES[1]),
        ("c", "sky"),
        ("c", NAMES[1]),
    }
    assert (rows[0]["image"], rows[0]["hausdorff_px"]) == ("a", "4.0")
    assert [float(row["hd95_px"]) for row in rows] == sorted((float(row["hd95_px"]) for row in rows), reverse=True)


def test_means_are_said_in_a_line(folder: Path) -> None:
    means = json.loads((folder / "boundaries.json").read_text())
    assert f"boundary IoU {means['boundary_iou']:.4f}, boundary F1 within 2 pixels" in boundary_text(means)
    assert "2 of 6 boundaries are only true or only predicted" in boundary_text(means)
    assert means["one_sided"] == 2  # both classes of the second image


def test_the_page_has_a_table_of_them_only_if_they_were_measured(folder: Path) -> None:
    run = folder.parent.parent
    (folder / "scores.json").write_text('{"iou": 0.5}')
    page = run_page(run)
    assert "Boundaries and objects" in page
    assert "<td>&lt;b&gt;pole&lt;/b&gt;</td><td>0.3279</td>" in page
    assert "<td>2</td><td>1</td>" in page  # numbers of images stay whole
    (folder / "boundaries.csv").write_text("class,boundary_iou\nsky\n")  # somebody else's
    assert "<td>sky</td><td>-</td>" in run_page(run)
    (folder / "boundaries.csv").unlink()
    assert "Boundaries and objects" not in run_page(run)
