import re

import pytest
import torch

from finetune.data import DataError, inspect
from finetune.data.sources.yolo import YoloSource, label_file

YAML = "path: .\ntrain: images/train\nval: images/val\nnames:\n  0: leaf\n  1: stone\n"
SQUARE = "0.1 0.25 0.5 0.25 0.5 0.75 0.1 0.75"  # columns 1 to 4 and rows 2 to 5 of 10 x 8


@pytest.fixture
def data(write, tmp_path):
    """Write an image and a text file for each name, and a YAML file, and return the folder."""

    def save(yaml=YAML, **files):
        for name, text in (files or {"train/a": f"0 {SQUARE}", "val/b": ""}).items():
            write(f"images/{name}.png")
            if text is not None:
                path = tmp_path / "labels" / f"{name}.txt"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
        if yaml is not None:
            (tmp_path / "data.yaml").write_text(yaml)
        return tmp_path

    return save


def masks(root, **options):
    return {record.name: record.target.read() for record in YoloSource(root, **options).records()}


def message(root, **options):
    with pytest.raises(DataError) as error:
        YoloSource(root, **options).records()
    return str(error.value)


def test_polygons_are_drawn_in_the_order_of_the_lines(data):
    root = data(**{"train/a": f"0 {SQUARE}\n\n1 0.3 0.25 0.7 0.25 0.7 0.5 0.3 0.5\n", "val/b": ""})
    expected = torch.zeros(8, 10, dtype=torch.uint8)
    expected[2:6, 1:5] = 1
    expected[2:4, 3:7] = 2
    source = YoloSource(root)
    assert source.class_names == ("background", "leaf", "stone")
    assert (masks(root)["images/train/a.png"] == expected).all()
    assert inspect(source.records(), 3)["train"].pixels.tolist() == [80 - 20, 12, 8]


def test_splits_are_those_of_the_yaml_file_and_images_without_labels_are_background(data):
    root = data(**{"train/a": f"0 {SQUARE}", "train/c": None, "val/b": ""})
    records = YoloSource(root).records()
    assert [(record.name, record.split) for record in records] == [
        ("images/train/a.png", "train"),
        ("images/train/c.png", "train"),
        ("images/val/b.png", "val"),
    ]
    assert records[0].target.paths == (root / "labels/train/a.txt",)
    assert not records[1].target.read().any()


@pytest.mark.parametrize(
    "names",
    [
        "[leaf, stone]",
        "{'0': leaf, '1': stone}",
        "{1: stone, 0: leaf}",
        "\n- leaf\n- stone",
    ],
)
def test_names_are_a_list_or_by_number(data, names):
    root = data(f"train: images/train\nval: images/val\nnames: {names}\n")
    assert YoloSource(root).class_names == ("background", "leaf", "stone")


@pytest.mark.parametrize(
    "paths",
    [
        "train: ../images/train\nval: ../images/val",
        "path: ../datasets/leaves\ntrain: images/train\nval: images/val",
        "path: /home/me/leaves\ntrain: images/train\nval: images/val\ntest: # optional",
        "train: /home/me/leaves/images/train\nval: [/home/me/leaves/images/val]",
        "path: C:\\leaves\ntrain: images\\train\nval: .\\images\\val",
    ],
)
def test_paths_of_another_machine_are_found_by_their_end(data, paths):
    root = data(f"{paths}\nnames: [leaf, stone]\n")
    assert [record.split for record in YoloSource(root).records()] == ["train", "val"]


def test_a_split_may_be_a_list_of_images(data):
    root = data("train: train.txt\nval: val.txt\nnames: [leaf]\n", a=f"0 {SQUARE}", b="", c="")
    (root / "train.txt").write_text("./images/a.png\r\n/home/me/images/c.png\n\n")
    (root / "val.txt").write_text("images/b.png")
    assert [(record.name, record.split) for record in YoloSource(root).records()] == [
        ("images/a.png", "train"),
        ("images/c.png", "train"),
        ("images/b.png", "val"),
    ]


def test_images_and_labels_may_be_in_the_folders_of_the_splits(write, tmp_path):
    for split in ("train", "valid"):
        write(f"{split}/images/a.png")
        (tmp_path / split / "labels").mkdir()
        (tmp_path / split / "labels" / "a.txt").write_text(f"0 {SQUARE}")
    (tmp_path / "data.yaml").write_text("train: ../train/images\nval: ../valid/images\nnames: [leaf]\n")
    (way,) = YoloSource.recognize(tmp_path)
    assert way.settings["classes"] == ["background", "leaf"]
    assert [(record.split, int(record.target.read().sum())) for record in YoloSource(tmp_path).records()] == [
        ("train", 16),
        ("val", 16),
    ]


@pytest.mark.parametrize(
    ("image", "file"),
    [
        ("images/a.png", "labels/a.txt"),
        ("images/x/images/y/a.b.png", "images/x/labels/y/a.b.txt"),
        ("x/a.png", "x/a.txt"),
    ],
)
def test_text_files_are_in_labels_instead_of_the_last_images(tmp_path, image, file):
    assert label_file(tmp_path, tmp_path / image) == tmp_path / file


def test_classes_are_numbered_without_a_yaml_file(data):
    root = data(None, **{"train/a": f"2 {SQUARE}", "val/b": ""})
    source = YoloSource(root)
    assert source.class_names == ("background", "class_0", "class_1", "class_2")
    assert [record.split for record in source.records()] == ["train", "val"]
    assert YoloSource(root, classes={"leaf": "class_2"}).class_names == ("background", "leaf")
    assert YoloSource.recognize(root)[0].settings == {"format": "yolo", "root": str(root)}


def test_names_can_be_chosen_merged_and_ignored(data):
    root = data(**{"train/a": f"0 {SQUARE}\n1 0.6 0 1 0 1 1 0.6 1", "val/b": ""})
    assert masks(root, classes=["stone"])["images/train/a.png"].unique().tolist() == [0, 1]
    assert masks(root, classes={"all": ["leaf", "stone"]})["images/train/a.png"].sum() == 16 + 32
    assert masks(root, ignored=["leaf"], ignore_index=7)["images/train/a.png"].unique().tolist() == [0, 1, 7]


def test_a_folder_is_recognized_with_names_and_splits(data):
    root = data()
    (way,) = YoloSource.recognize(root)
    assert way.settings == {
        "format": "yolo",
        "root": str(root),
        "yaml": "data.yaml",
        "classes": ["background", "leaf", "stone"],
    }
    assert way.lines == (
        "YOLO polygons in labels/, described by data.yaml (data.format=yolo)",
        "classes background, leaf, stone from its names (data.classes)",
        "splits train, val from data.yaml",
    )
    assert YoloSource.recognize(root / "data.yaml") == [way]
    (root / "data.yaml").rename(root / "leaves.yaml")
    (named,) = YoloSource.recognize(root / "leaves.yaml")
    assert named.settings["yaml"] == "leaves.yaml"
    assert YoloSource(root, yaml="leaves.yaml").class_names == ("background", "leaf", "stone")


def test_boxes_and_other_folders_are_not_recognized(data, tmp_path):
    assert YoloSource.recognize(tmp_path / "nowhere") == []
    assert YoloSource.recognize(tmp_path) == []
    root = data(**{"train/a": "0 0.5 0.5 0.2 0.2", "val/b": "words of seven parts in this line"})
    (root / "labels" / "train" / "c.txt").write_bytes(b"\xff\x00" * 99)
    assert YoloSource.recognize(root) == []
    assert YoloSource.recognize(root / "images" / "train" / "a.png") == []


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("0 0.5 0.5 0.2 0.2", r"it is a box \(class x y width height\), which is no mask. Export polygons instead"),
        ("0 0.1 0.1 0.5 0.1 0.5", "it has 5 coordinates, an odd number"),
        ("0 0.1 0.1", "it has 1 points; expected 3 or more"),
        ("0", "it has 0 points; expected 3"),
        (f"5 {SQUARE}", "its class is 5; the names are for 0 to 1"),
        (f"-1 {SQUARE}", "its class is -1; expected a whole number"),
        (f"0.5 {SQUARE}", "its class is 0.5; expected a whole number"),
        (f"99999999 {SQUARE}", "its class is 99999999; expected a whole number from 0 to 9,999"),
        (f"leaf {SQUARE}", "it is 'leaf .*; expected numbers"),
        ("0 nan 0.1 0.5 0.1 0.5 0.5", "it has the coordinate nan"),
        ("0 inf 0.1 0.5 0.1 0.5 0.5", "it has the coordinate inf"),
        ("0 10 20 50 20 50 60", "its coordinates are from 10 to 60; expected fractions"),
    ],
)
def test_a_malformed_line_is_refused_with_file_and_line(data, line, text):
    error = message(data(**{"train/a": f"0 {SQUARE}\n{line}", "val/b": ""}))
    assert re.search(rf"labels/train/a\.txt' line 2: ({text})", error), error


@pytest.mark.parametrize(
    ("yaml", "text"),
    [
        ("names: [", "data.yaml' is no YAML: "),
        ("[1, 2]", "data.yaml' has the names None; expected 'names'"),
        ("train: images/train", "has the names None; expected 'names' with the name of each class"),
        ("names: leaf", "has the names 'leaf'; expected"),
        ("names: []", "has the names {}; expected"),
        ("names: {leaf: 0}", "has the names {'leaf': 0}; expected"),
        ("names: [[leaf]]", r"has the names {0: \['leaf'\]}; expected"),
        ("names: [leaf]\ntrain: 3", "has 3 as a path of train; expected text"),
        ("names: [leaf]\ntrain: images/gone", "described by '.*data.yaml', cannot .*\n- 'images/gone' is not below '"),
        ("names: [leaf]\ntrain: images/empty", "data.yaml', cannot .*\n- '.*images/empty' has no images"),
        ("names: [leaf]\ntrain: images\nval: images", "image '.*a.png' is annotated twice, .* \\(as train and val\\)"),
        ("names: [leaf]\ntrain: list.txt", "'.*list.txt' line 2: there is no image 'gone.png'"),
        ("a: &a [x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a]\nc: &c [*b, *b, *b, *b, *b, *b, *b]\n"
         "d: &d [*c, *c, *c, *c, *c, *c, *c]\nnames: [*d, *d, *d, *d, *d, *d, *d, *d, *d]", "more than 20,000 values"),
        ("!!python/object/apply:os.system [ls]", "data.yaml' is no YAML: could not determine a constructor"),
    ],
)  # fmt: skip
def test_a_malformed_yaml_file_is_refused_with_its_name(data, yaml, text):
    root = data(yaml)
    (root / "images" / "empty").mkdir()
    (root / "list.txt").write_text("images/train/a.png\ngone.png\n")
    error = message(root)
    assert re.search(text, error), error


def test_text_files_without_an_image_and_images_without_any_text_file_are_named(data):
    root = data()
    (root / "labels" / "train" / "c.txt").write_text("")
    (root / "labels" / "train" / "classes.txt").write_text("leaf")
    assert re.search(r"1 text files have no image: .*labels/train/c\.txt\. Add the images", message(root))
    for path in (root / "labels").rglob("*.txt"):
        path.unlink()
    assert "none of the 2 images has a text file, such as" in message(root)


def test_damaged_files_are_refused_with_their_name_or_read(data, survives_damage):
    root = data(**{"train/a": f"0 {SQUARE}\n1 0.3 0.25 0.7 0.25 0.7 0.5 0.3 0.5\n", "val/b": ""})
    assert survives_damage(lambda: YoloSource(root), root / "labels/train/a.txt", 200) > 100
    assert survives_damage(lambda: YoloSource(root), root / "data.yaml", 200, named=root.name) > 20
