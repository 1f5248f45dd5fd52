import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.data.recognition.discovery import discover
from finetune.data.recognition.mask_file_layouts import overlap, recognize_mask_files
from finetune.data.sources.mask_files import MaskFilesSource
from tests.data.recognition.test_layouts import draw

NAMES = ["p1", "p2", "p3"]


def block(path: Path, rows: slice, columns: slice = slice(None)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((20, 24), np.uint8)
    mask[rows, columns] = 255
    Image.fromarray(mask).save(path)


def read(root: Path) -> MaskFilesSource:
    (found,) = recognize_mask_files(root)
    return MaskFilesSource(**{key: value for key, value in found.settings.items() if key != "format"})


@pytest.mark.parametrize(
    ("images", "pattern"),
    [
        ("images/{}.jpg", "masks/{c}/{s}.png"),
        ("images/{}.jpg", "masks/{s}_{c}.png"),
        ("images/{}.jpg", "masks/{s}/{c}.png"),
        ("{0}/images/{0}.jpg", "{s}/masks/{c}.png"),
    ],
)
@pytest.mark.parametrize("overlapping", [True, False])
def test_a_mask_per_class_is_multilabel_if_classes_overlap(tmp_path, images, pattern, overlapping):
    draw(tmp_path, images, names=NAMES)
    for name in NAMES:
        block(tmp_path / pattern.format(c="leaf", s=name), slice(0, 8))
        block(tmp_path / pattern.format(c="stone", s=name), slice(6 if overlapping else 8, 12))
    source = read(tmp_path)
    assert source.class_names == (("leaf", "stone") if overlapping else ("background", "leaf", "stone"))
    target = source.records()[0].target.read()
    if overlapping:
        assert target.sum((1, 2)).tolist() == [8 * 24, 6 * 24]
    else:
        assert target.unique(return_counts=True)[1].tolist() == [8 * 24, 8 * 24, 4 * 24]


def test_a_class_of_a_single_image_is_a_class_next_to_those_of_many(tmp_path):
    draw(tmp_path, "images/{}.jpg", names=NAMES)
    for name in NAMES:
        block(tmp_path / f"masks/{name}_road.png", slice(0, 8))
        block(tmp_path / f"masks/{name}_tree.png", slice(8, 9))
    block(tmp_path / "masks/p1_bus.png", slice(10, 12))
    assert read(tmp_path).class_names == ("background", "bus", "road", "tree")


def test_overlaps_are_looked_for_over_all_of_a_large_set_and_the_line_says_in_how_many(tmp_path, monkeypatch):
    monkeypatch.setattr("finetune.data.recognition.mask_file_layouts.SAMPLE", 2)
    draw(tmp_path, "images/{}.jpg", names=NAMES)
    for place, name in enumerate(NAMES):
        block(tmp_path / f"masks/leaf/{name}.png", slice(0, 8))
        block(tmp_path / f"masks/stone/{name}.png", slice(8 - (place == 1), 12))
    (found,) = recognize_mask_files(tmp_path)
    assert not found.settings["multilabel"]
    assert "no pixel has two classes in 2 of the images" in found.lines[-1]
    block(tmp_path / "masks/stone/p3.png", slice(7, 12))  # the last one
    assert read(tmp_path).multilabel


@pytest.mark.parametrize("pattern", ["masks/{c}/{s}.png", "masks/{s}/{c}.png"])
def test_split_folders_of_the_images_are_kept_and_told(tmp_path, pattern):
    draw(tmp_path, "images/train/{}.jpg", names=NAMES[:2])
    draw(tmp_path, "images/val/{}.jpg", names=NAMES[2:])
    for name in NAMES:
        block(tmp_path / pattern.format(c="leaf", s=name), slice(0, 8))
        block(tmp_path / pattern.format(c="stone", s=name), slice(8, 12))
    assert {record.name: record.split for record in read(tmp_path).records()} == {
        "p1": "train",
        "p2": "train",
        "p3": "val",
    }
    line = "the split is that of folders of the images: train, val (data.splits)"
    assert line in recognize_mask_files(tmp_path)[0].lines


@pytest.mark.parametrize("folders", [("test1", "test2"), ("val", "val"), ("train", "site9")])
def test_folders_that_are_no_whole_split_are_none(tmp_path, folders):
    for name, folder in zip(NAMES, (*folders, folders[0]), strict=True):
        draw(tmp_path, f"images/{folder}/{{}}.jpg", names=[name])
        block(tmp_path / f"masks/leaf/{name}.png", slice(0, 8))
        block(tmp_path / f"masks/stone/{name}.png", slice(8, 12))
    assert {record.split for record in read(tmp_path).records()} == {""}
    assert not any("split" in line for line in recognize_mask_files(tmp_path)[0].lines)


@pytest.mark.parametrize("overlapping", [True, False])
def test_whether_classes_may_overlap_can_be_chosen(tmp_path, overlapping):
    draw(tmp_path, "images/{}.jpg", names=NAMES)
    for name in NAMES:
        block(tmp_path / f"masks/leaf/{name}.png", slice(0, 8))
        block(tmp_path / f"masks/stone/{name}.png", slice(6 if overlapping else 8, 12))
    for multilabel in (True, False):
        found = discover(tmp_path, {"multilabel": multilabel}).settings
        source = MaskFilesSource(**{key: value for key, value in found.items() if key != "format"})
        assert source.class_names == (("leaf", "stone") if multilabel else ("background", "leaf", "stone"))


def test_the_line_of_classes_says_how_to_take_them_for_objects(tmp_path):
    draw(tmp_path, "{0}/images/{0}.jpg", names=NAMES)
    for name in NAMES:
        block(tmp_path / f"{name}/masks/leaf.png", slice(0, 8))
        block(tmp_path / f"{name}/masks/stone.png", slice(8, 12))
    line = recognize_mask_files(tmp_path)[0].lines[1]
    typed = dict(text.removeprefix("data.").split("=") for text in shlex.split(line.partition(": ")[2]))
    found = discover(tmp_path, typed).settings
    assert MaskFilesSource(**{k: v for k, v in found.items() if k != "format"}).class_names == ("background", "object")


def test_a_folder_of_the_background_is_no_class_of_those_that_overlap(tmp_path):
    draw(tmp_path, "images/{}.jpg", names=NAMES)
    for name in NAMES:
        for place, label in enumerate(("background", "leaf", "stone")):
            block(tmp_path / "masks" / label / f"{name}.png", slice(3 * place, 3 * place + 5))
    source = read(tmp_path)
    assert source.class_names == ("leaf", "stone")
    assert source.records()[0].target.read().sum((1, 2)).tolist() == [5 * 24, 5 * 24]


@pytest.mark.parametrize(
    ("images", "pattern"),
    [
        ("images/{}.jpg", "masks/{s}_object{n}.png"),
        ("images/{}.jpg", "masks/{s}_{n}.png"),
        ("images/{}.jpg", "masks/{s}/{n}.png"),
        ("images/{}.jpg", "masks/{s}/{s}_{n}.png"),
        ("{0}/images/{0}.jpg", "{s}/masks/{n}.png"),
    ],
)
def test_a_mask_per_object_is_one_class(tmp_path, images, pattern):
    draw(tmp_path, images, names=NAMES)
    for place, name in enumerate(NAMES):
        for number in range(2 + place):
            block(tmp_path / pattern.format(s=name, n=number), slice(4 * number, 4 * number + 2))
    source = read(tmp_path)
    assert source.class_names == ("background", "object")
    counts = [int((record.target.read() == 1).sum()) for record in source.records()]
    assert counts == [24 * 2 * (2 + place) for place in range(3)]


def test_pairs_of_one_mask_are_not_several(tmp_path):
    draw(tmp_path, "images/{}.jpg", names=NAMES)
    draw(tmp_path, "masks/{}.png", names=NAMES, kind="mask")
    assert recognize_mask_files(tmp_path) == []
    assert recognize_mask_files(tmp_path / "nowhere") == []


def test_split_folders_are_no_classes(tmp_path):
    draw(tmp_path, "images/train/{}.jpg", "images/val/{}.jpg", names=NAMES)
    draw(tmp_path, "masks/train/{}.png", "masks/val/{}.png", names=NAMES, kind="mask")
    assert recognize_mask_files(tmp_path) == []


def test_overlap_is_the_share_of_marked_pixels_with_several(tmp_path):
    block(tmp_path / "a.png", slice(0, 4))
    block(tmp_path / "b.png", slice(3, 6))
    assert overlap([[tmp_path / "a.png", tmp_path / "b.png"]]) == pytest.approx(1 / 6)


def test_a_few_images_with_several_masks_are_enough_to_leave_a_doubt(tmp_path):
    names = [f"p{number}" for number in range(6)]
    draw(tmp_path, "photos/{}.jpg", names=names)
    draw(tmp_path, "labels/{}_0.png", names=names, kind="mask")
    draw(tmp_path, "labels/{}_1.png", names=names[:2], kind="mask")
    (found,) = recognize_mask_files(tmp_path)
    assert found.settings["masks"] == "labels/{stem}_{object}"


@pytest.mark.parametrize("folders", [("photos", "{class} masks"), ("train/images", "train/masks")])
def test_names_with_braces_and_split_folders_are_no_places_in_a_pattern(tmp_path, folders):
    draw(tmp_path, f"{folders[0]}/{{}}.jpg", names=NAMES)
    pattern = f"{folders[1].replace('{', '{{').replace('}', '}}')}/{{}}"
    draw(tmp_path, f"{pattern}_0.png", f"{pattern}_1.png", names=NAMES, kind="mask")
    assert recognize_mask_files(tmp_path) == []
