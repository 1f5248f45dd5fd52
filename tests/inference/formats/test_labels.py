"""Labels that were written come back in through the data sources; the numbers in them are those of the masks."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.data.sources.coco import CocoSource
from finetune.data.sources.cvat import CvatSource
from finetune.data.sources.labelme import LabelmeSource
from finetune.data.sources.labelstudio import LabelStudioSource
from finetune.data.sources.yolo import YoloSource
from finetune.inference import ClassIndices, ClassMasks, Output
from finetune.inference.formats import Predicted
from finetune.inference.formats.geojson import _coordinates
from finetune.inference.prediction_folder import PredictionFolder
from tests.samples import save

CLASSES = ["background", "leaf & stem", "stone"]
SIZE = (40, 56)
Read = Callable[[Path], Any]


def disc(row: int, column: int, radius: int) -> np.ndarray:
    rows, columns = np.ogrid[: SIZE[0], : SIZE[1]]
    return (rows - row) ** 2 + (columns - column) ** 2 < radius**2


def prediction() -> np.ndarray:
    """Return a ring with a disc in its hole, an area at the border, and areas that touch at corners only."""
    labels = np.zeros(SIZE, dtype=np.uint8)
    labels[disc(16, 20, 15)] = 1
    labels[disc(16, 20, 9)] = 0
    labels[disc(16, 20, 5)] = 2
    labels[25:, 40:] = 1
    labels[30:35, 45:50] = 0
    labels[36, 2] = labels[37, 3] = 2
    return labels


def written(root: Path, output: Output, labels: np.ndarray, write: list[str], tolerance: float = 0) -> Path:
    """Write the labels of two images, of which the second has none, into `root`, which has the images."""
    folder = PredictionFolder(root, output, write, tolerance)
    names = {}
    for name, mask in (("day/a b.png", labels), ("c.png", np.zeros_like(labels))):
        path = save(root / "images" / name, np.zeros((*SIZE, 3), dtype=np.uint8))
        names[path] = Path(name)
        folder.save(Predicted(path, np.zeros((3, *SIZE)), mask), names[path])
    folder.finish(names)
    for mask in (root / "masks").rglob("*.png"):
        mask.unlink()  # images, to the readers
    return root


def read_yolo(root: Path) -> YoloSource:
    (root / "images").rename(root / "yolo" / "images")
    return YoloSource(root / "yolo", classes=CLASSES)


READ: dict[str, Read] = {
    "labelme": lambda root: LabelmeSource(root, classes=CLASSES),
    "coco": lambda root: CocoSource(root, classes=CLASSES),
    "cvat": lambda root: CvatSource(root, classes=CLASSES),
    "labelstudio": lambda root: LabelStudioSource(root, classes=CLASSES, predictions=True),
    "yolo": read_yolo,
}


def truth(source: Any) -> dict[str, np.ndarray]:
    return {Path(record.name).name: record.target.read().numpy() for record in source.records()}


@pytest.mark.parametrize("name", READ)
def test_labels_come_back_as_they_were_predicted(name: str, tmp_path: Path) -> None:
    labels = prediction()
    found = truth(READ[name](written(tmp_path, ClassIndices(CLASSES), labels, [name])))
    assert found.keys() == {"a b.png", "c.png"}
    assert (found["a b.png"] == labels).all()
    assert not found["c.png"].any()


@pytest.mark.parametrize("name", READ)
def test_simplified_labels_come_back_nearly_as_they_were_predicted(name: str, tmp_path: Path) -> None:
    labels = prediction()
    found = truth(READ[name](written(tmp_path, ClassIndices(CLASSES), labels, [name], tolerance=0.8)))["a b.png"]
    assert 0 < (found != labels).sum() < 0.02 * labels.size


@pytest.mark.parametrize("name", READ)
def test_masks_of_several_labels_come_back(name: str, tmp_path: Path) -> None:
    masks = np.stack([prediction() == index for index in range(3)]).astype(np.uint8)
    masks[1, disc(16, 20, 5)] = 1  # below the stone, which is drawn later
    found = truth(READ[name](written(tmp_path, ClassMasks(CLASSES), masks, [name])))
    assert (found["a b.png"] == prediction()).all()


def test_without_a_background_all_classes_are_written(tmp_path: Path) -> None:
    root = written(tmp_path, ClassIndices(["sky", "sea", "land"]), prediction(), ["coco"])
    source = CocoSource(root)
    assert source.class_names == ("background", "sky", "sea", "land")  # the readers put it first
    assert (truth(source)["a b.png"] == prediction() + 1).all()


def test_label_studio_shows_predictions_and_a_training_leaves_them_out(tmp_path: Path) -> None:
    written(tmp_path, ClassIndices(CLASSES), prediction(), ["labelstudio"])
    tasks = json.loads((tmp_path / "labelstudio.json").read_text())
    assert [task["annotations"] for task in tasks] == [[], []]
    assert tasks[0]["data"]["image"] == "/data/local-files/?d=day/a%20b.png"
    (result, *_) = tasks[0]["predictions"][0]["result"]
    view = (tmp_path / "labelstudio.xml").read_text()
    assert f'name="{result["from_name"]}" toName="{result["to_name"]}"' in view
    assert 'value="leaf &amp; stem"' in view
    with pytest.raises(ValueError, match="are for no image"):
        LabelStudioSource(tmp_path).records()


def test_coco_has_the_area_and_the_box_of_each_region(tmp_path: Path) -> None:
    written(tmp_path, ClassIndices(CLASSES), prediction(), ["coco"])
    content = json.loads((tmp_path / "coco.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["day/a b.png", "c.png"]
    assert content["categories"] == [{"id": 2, "name": "leaf & stem"}, {"id": 3, "name": "stone"}]
    assert len(content["annotations"]) == 5
    frame = content["annotations"][2]
    assert (frame["category_id"], frame["area"], frame["bbox"]) == (2, 15 * 16 - 25, [40, 25, 16, 15])


def test_the_table_has_the_area_of_each_class(tmp_path: Path) -> None:
    labels = prediction()
    written(tmp_path, ClassIndices(CLASSES), labels, ["areas"])
    with (tmp_path / "areas.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["image"], row["class"]) for row in rows[::3]] == [
        ("day/a b.png", "background"),
        ("c.png", "background"),
    ]
    assert [int(row["pixels"]) for row in rows[:3]] == np.bincount(labels.ravel()).tolist()
    assert [row["regions"] for row in rows] == ["3", "2", "3", "1", "0", "0"]
    assert [row["share"] for row in rows[3:]] == ["1.000000", "0.000000", "0.000000"]


def test_geojson_has_closed_rings_with_holes_in_pixels(tmp_path: Path) -> None:
    written(tmp_path, ClassIndices(CLASSES), prediction(), ["geojson"])
    features = json.loads((tmp_path / "geojson/day/a b.geojson").read_text())["features"]
    frame = features[2]
    assert frame["properties"] == {"class": "leaf & stem", "pixels": 215}
    outline, hole = frame["geometry"]["coordinates"]
    assert outline == [[40, 25], [56, 25], [56, 40], [40, 40], [40, 25]]
    assert hole[0] == hole[-1]
    assert sorted(map(tuple, hole[1:])) == [(45, 30), (45, 35), (50, 30), (50, 35)]
    assert json.loads((tmp_path / "geojson/c.geojson").read_text())["features"] == []


def test_outlines_of_a_pixel_in_degrees_are_counterclockwise() -> None:
    square = np.array([[0, 0], [0, 1], [1, 1], [1, 0]])
    pixel = 1e-7  # degrees, about a centimeter
    for place in np.random.default_rng(0).uniform(10, 50, (200, 2)):
        (ring,) = _coordinates([square], lambda points, place=place: place + pixel * points)
        x, y = (np.array(ring) - ring[0]).T
        assert (x[:-1] * y[1:] - x[1:] * y[:-1]).sum() > 0


def test_geojson_lies_where_its_image_lies(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    features_of, warp = pytest.importorskip("rasterio.features"), pytest.importorskip("rasterio.warp")
    place, path, labels = rasterio.Affine(0.4, 0.3, 388_000, 0.3, -0.4, 5_820_000), tmp_path / "a.tif", prediction()
    size = {"height": SIZE[0], "width": SIZE[1], "count": 1, "dtype": "uint8"}
    with rasterio.open(path, "w", driver="GTiff", crs="EPSG:25833", transform=place, **size) as file:
        file.write(labels[None])
    folder = PredictionFolder(tmp_path / "out", ClassIndices(CLASSES), ["geojson"])
    folder.save(Predicted(path, np.zeros((3, *SIZE)), labels), Path("a.tif"))
    folder.finish({path: Path("a.tif")})
    features = json.loads((tmp_path / "out/geojson/a.geojson").read_text())["features"]
    back = [
        (warp.transform_geom("EPSG:4326", "EPSG:25833", each["geometry"]), CLASSES.index(each["properties"]["class"]))
        for each in features
    ]
    assert 13 < features[0]["geometry"]["coordinates"][0][0][0] < 14  # degrees east
    assert (features_of.rasterize(back, SIZE, transform=place) == labels).mean() > 0.99
    ring = np.array(features[0]["geometry"]["coordinates"][0])
    assert (ring[:-1, 0] * ring[1:, 1] - ring[1:, 0] * ring[:-1, 1]).sum() > 0  # counterclockwise
