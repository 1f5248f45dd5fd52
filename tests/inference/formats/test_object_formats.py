"""Objects in files: read again by the data sources, and measured by hand."""

import csv
import json
from math import pi
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from finetune.data.objects import with_objects
from finetune.data.sources.coco import CocoSource
from finetune.data.sources.labelme import LabelmeSource
from finetune.data.sources.yolo import YoloSource
from finetune.inference.formats import OBJECT_FORMATS, FoundObjects, ObjectFiles, check_formats
from finetune.inference.formats.object_labels import perimeter
from finetune.inference.formats.objects import read_objects, reduced_crop
from finetune.inference.instances import ObjectOutput
from finetune.inference.instances.saving import ObjectFolder
from finetune.instances import ObjectCrop, as_objects, crops_of, from_planes, objects_of
from finetune.plots.objects import draw_objects
from tests.samples import save

CLASSES = ["leaf & stem", "stone"]
SIZE = (40, 56)
NAME = Path("day/a b.png")


def disc(row: float, column: float, radius: float, size: tuple[int, int] = SIZE) -> np.ndarray:
    rows, columns = np.ogrid[: size[0], : size[1]]
    return (rows - row) ** 2 + (columns - column) ** 2 < radius**2


def objects() -> list[ObjectCrop]:
    """Return a ring, a disc that overlaps with it, an object in two parts, and a small one in a corner."""
    parts = np.zeros(SIZE, dtype=bool)
    parts[25:, 40:45] = parts[20:24, 50:] = True
    corner = np.zeros(SIZE, dtype=bool)
    corner[37:, :3] = True
    masks = np.stack([disc(16, 20, 15) & ~disc(16, 20, 9), disc(20, 33, 6), parts, corner])
    return crops_of(
        objects_of(torch.from_numpy(masks), torch.tensor([0, 1, 0, 1]), torch.tensor([0.9, 0.8, 0.75, 0.5]))
    )


def written(root: Path, *write: str, tolerance: float = 0) -> Path:
    """Write the objects of one image, and of one without any, into `root`, which has the images."""
    folder, names = ObjectFolder(root, ObjectOutput(CLASSES), write, tolerance), {}
    for name, found in ((NAME, objects()), (Path("c.png"), [])):
        path = save(root / "images" / name, np.zeros((*SIZE, 3), dtype=np.uint8))
        names[path] = name
        folder.save(FoundObjects(path, torch.zeros(3, *SIZE, dtype=torch.uint8), SIZE, found), name)
    folder.finish(names)
    return root


def masks_of(crops: list[ObjectCrop]) -> set[tuple[int, bytes]]:
    found = as_objects(crops, SIZE)
    return {(int(label), mask.numpy().tobytes()) for label, mask in zip(found.labels, found.masks, strict=True)}


def read(source: Any) -> dict[str, set[tuple[int, bytes]]]:
    """Return the objects of each image as they would be trained on."""
    found = {}
    for record in source.records():
        target = with_objects(record, "files", 0, 255).target
        assert target is not None
        found[Path(record.name).name] = masks_of(crops_of(from_planes(target.read())))
    return found


def test_the_file_of_an_image_says_all_of_its_objects(tmp_path: Path) -> None:
    written(tmp_path)
    size, found = read_objects(tmp_path / "objects/day/a b.json", CLASSES)
    assert size == SIZE
    assert len(found) == 4
    for one, other in zip(found, objects(), strict=True):
        assert (one.box, one.label, one.score) == (other.box, other.label, round(other.score, 6))
        assert (one.mask == other.mask).all()
    assert read_objects(tmp_path / "objects/c.json", CLASSES) == (SIZE, [])
    last = json.loads((tmp_path / "objects/day/a b.json").read_text())["objects"][-1]
    runs = {"size": [40, 56], "counts": last["segmentation"]["counts"]}
    assert last == {"class": "stone", "score": 0.5, "box": [0, 37, 3, 40], "area": 9, "segmentation": runs}
    pycocotools = pytest.importorskip("pycocotools.mask")
    assert (pycocotools.decode(runs) == as_objects(objects(), SIZE).masks[3].numpy()).all()


def test_files_of_many_objects_with_long_outlines_are_read_again(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).random((300, 300)) < 0.5
    noise[[0, -1]] = noise[:, [0, -1]] = True
    ObjectFiles(ObjectOutput(CLASSES)).save(
        FoundObjects(tmp_path / "x.png", torch.zeros(0), (300, 300), [ObjectCrop(0, 0, noise, 0, 0.5)] * 8),
        tmp_path / "x.json",
    )
    assert (tmp_path / "x.json").stat().st_size > 2**18
    _, found = read_objects(tmp_path / "x.json", CLASSES)
    assert len(found) == 8
    assert (found[7].mask == noise).all()


SOURCES = {
    "coco": lambda root: CocoSource(root, classes=["background", *CLASSES]),
    "labelme": lambda root: LabelmeSource(root, classes=["background", *CLASSES]),
}


@pytest.mark.parametrize("name", SOURCES)
def test_objects_come_back_as_they_were_predicted(name: str, tmp_path: Path) -> None:
    root = written(tmp_path, name)
    for path in (root / "objects").rglob("*.json"):
        path.unlink()
    assert read(SOURCES[name](root)) == {"a b.png": masks_of(objects()), "c.png": set()}


def test_parts_become_polygons_of_their_own_where_a_format_has_nothing_else(tmp_path: Path) -> None:
    root = written(tmp_path, "yolo")
    (root / "images").rename(root / "yolo" / "images")
    found = read(YoloSource(root / "yolo", classes=["background", *CLASSES]))
    ring, other, parts, corner = objects()
    left, right = parts.mask.copy(), parts.mask.copy()
    left[:, 8:] = right[:, :8] = False
    split = [ring, other, corner, *(parts._replace(mask=each) for each in (left, right))]
    assert found["a b.png"] == masks_of(split)


def test_coco_has_polygons_and_runs_where_they_would_lose_a_hole(tmp_path: Path) -> None:
    content = json.loads((written(tmp_path, "coco", tolerance=0.5) / "coco.json").read_text())
    ring, other, parts, corner = content["annotations"]
    assert [each["score"] for each in content["annotations"]] == pytest.approx([0.9, 0.8, 0.75, 0.5])
    assert ring["segmentation"].keys() == {"size", "counts"}
    assert (len(other["segmentation"]), len(parts["segmentation"])) == (1, 2)
    assert len(other["segmentation"][0]) < 2 * 20  # simplified
    assert (corner["bbox"], corner["area"], corner["category_id"]) == ([0, 37, 3, 3], 9, 2)
    assert {each["image_id"] for each in content["annotations"]} == {1}
    assert [each["file_name"] for each in content["images"]] == ["day/a b.png", "c.png"]


def test_ids_are_the_numbers_of_the_objects_and_the_higher_score_is_on_top(tmp_path: Path) -> None:
    ids = np.array(Image.open(written(tmp_path, "ids") / "ids/day/a b.png"))
    expected = np.zeros(SIZE, dtype=int)
    for number, mask in reversed(list(enumerate(as_objects(objects(), SIZE).masks.numpy(), start=1))):
        expected[mask] = number
    assert ids.dtype == np.uint16
    assert (ids == expected).all()
    assert ids[16, 33] == 1  # the ring and the disc
    assert not np.array(Image.open(tmp_path / "ids/c.png")).any()


def test_overlays_are_drawn_with_the_boxes_around_the_masks(tmp_path: Path) -> None:
    drawn = np.array(Image.open(written(tmp_path, "overlays") / "overlays/day/a b.png"))
    assert (drawn == draw_objects(torch.zeros(3, *SIZE, dtype=torch.uint8), as_objects(objects(), SIZE), CLASSES)).all()


def test_overlays_of_large_images_are_reduced_and_drop_what_falls_between_their_pixels(tmp_path: Path) -> None:
    folder = ObjectFolder(tmp_path, ObjectOutput(CLASSES), ["overlays"])
    image = torch.zeros(3, 14, 19, dtype=torch.uint8)
    folder.save(FoundObjects(tmp_path / "x.png", image, SIZE, objects(), 3), Path("x.png"))
    full = as_objects(objects(), SIZE)
    left = [reduced_crop(crop, 3) for crop in objects()]
    assert (as_objects(left, (14, 19)).masks == full.masks[:, ::3, ::3]).all()
    reduced = objects_of(full.masks[:, ::3, ::3], full.labels, full.scores)
    expected = draw_objects(image, reduced[reduced.masks.flatten(1).any(1)], CLASSES)
    assert (np.array(Image.open(tmp_path / "overlays/x.png")) == expected).all()


def test_a_table_measures_each_object(tmp_path: Path) -> None:
    with (written(tmp_path, "table") / "objects.csv").open() as file:
        ring, other, parts, corner = csv.DictReader(file)
    assert (ring["image"], ring["object"], ring["class"]) == ("day/a b.png", "1", "leaf & stem")
    assert (other["center_x"], other["center_y"], other["score"]) == ("33.50", "20.50", "0.8000")
    assert [parts[side] for side in ("left", "top", "right", "bottom")] == ["40", "20", "56", "40"]
    assert parts["area"] == str(15 * 5 + 4 * 6)
    assert corner["center_y"] == "38.50"
    outer = crops_of(objects_of(torch.from_numpy(disc(16, 20, 15))[None], torch.tensor([0])))[0]
    assert ring["perimeter"] == f"{perimeter(outer):.2f}"  # without its hole
    assert float(other["circularity"]) == pytest.approx(1, abs=0.05)


def test_a_perimeter_is_that_of_circles_and_turned_squares() -> None:
    for radius in (10, 30, 60):
        mask = disc(radius + 0.3, radius + 0.6, radius, (2 * radius + 3, 2 * radius + 3))
        (crop,) = crops_of(objects_of(torch.from_numpy(mask)[None], torch.tensor([0])))
        assert perimeter(crop) == pytest.approx(2 * pi * radius, rel=0.02)
    square = ObjectCrop(3, 5, np.ones((50, 50), dtype=bool), 0, 1.0)
    assert perimeter(square) == pytest.approx(0.948 * (4 * 49 + 4 * 0.5**0.5), rel=0.001)  # by hand, 6 % too short


def test_formats_of_the_other_models_are_named() -> None:
    with pytest.raises(
        ValueError, match=r"the model finds objects, so write has no format 'areas'. It has objects, over"
    ):
        check_formats(["areas"], 0, OBJECT_FORMATS)
    with pytest.raises(ValueError, match=r"the model classifies pixels, so write has no format 'table'. It has masks,"):
        check_formats(["table"])
    with pytest.raises(ValueError, match=r"write has no format 'tabel'. Did you mean table"):
        check_formats(["tabel"], 0, OBJECT_FORMATS)
