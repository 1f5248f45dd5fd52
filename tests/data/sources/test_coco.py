import json
import re

import numpy as np
import pytest
import torch

from finetune.data import DataError, inspect
from finetune.data.sources.coco import CocoSource

SQUARE = [1, 1, 5, 1, 5, 5, 1, 5]
CATEGORIES = [{"id": 20, "name": "stone"}, {"id": 10, "name": "leaf"}]


def shape(category=10, image=1, segmentation=None, **others):
    return {"image_id": image, "category_id": category, "segmentation": segmentation or [SQUARE], **others}


def content(*annotations, images=("a.png",), **others):
    listed = [{"id": n, "file_name": name, "height": 8, "width": 10} for n, name in enumerate(images, start=1)]
    return {"images": listed, "annotations": list(annotations), "categories": CATEGORIES, **others}


@pytest.fixture
def data(write):
    """Write a JSON file and the images a.png and b.png, and return the folder."""

    def save(value=None, name="annotations.json", folder="", images=("a.png", "b.png")):
        for image in images:
            write(f"{folder}{image}")
        root = write("a.png").parent
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(json.dumps(content(shape()) if value is None else value))
        return root

    return save


def masks(root, **options):
    return {record.name: record.target.read() for record in CocoSource(root, **options).records()}


def message(root, **options):
    with pytest.raises(DataError) as error:
        [record.target.read() for record in CocoSource(root, **options).records()]
    return str(error.value)


def test_objects_are_drawn_with_the_classes_in_the_order_of_the_category_ids(data):
    root = data(content(shape(10), shape(20, segmentation=[[3, 1, 7, 1, 7, 3, 3, 3]]), images=("a.png", "b.png")))
    source = CocoSource(root)
    expected = torch.zeros(8, 10, dtype=torch.uint8)
    expected[1:5, 1:5] = 1
    expected[1:3, 3:7] = 2  # the later one
    drawn = masks(root)
    assert source.class_names == ("background", "leaf", "stone")
    assert drawn["a.png"].dtype == torch.uint8
    assert (drawn["a.png"] == expected).all()
    assert drawn["b.png"].shape == (8, 10)
    assert not drawn["b.png"].any()
    assert inspect(source.records(), 3)[""].pixels.tolist() == [160 - 20, 12, 8]


def test_parts_of_an_object_are_united_even_where_they_overlap(data):
    drawn = masks(data(content(shape(10, segmentation=[SQUARE, [3, 3, 9, 3, 9, 7, 3, 7]]))))["a.png"]
    assert drawn[3:5, 3:5].all()
    assert drawn.sum() == 16 + 24 - 4


def test_both_kinds_of_rle_go_down_the_columns(data):
    mask = np.zeros((8, 10), dtype=np.uint8)
    mask[2:6, 0:3] = 1
    mask[7, 9] = 1
    counts = [2, 4, 4, 4, 4, 4, 57, 1]  # by hand
    plain = {"size": [8, 10], "counts": counts}
    text = {"size": [8, 10], "counts": "244000" + chr(48 + 21 + 32) + "1" + chr(48 + 29)}
    for segmentation in (plain, text):
        assert masks(data(content(shape(20, segmentation=segmentation))))["a.png"].tolist() == (2 * mask).tolist()


def test_a_crowd_is_ignored_and_lies_under_its_single_objects(data):
    everywhere = {"size": [8, 10], "counts": [0, 80]}
    root = data(content(shape(10), shape(10, segmentation=everywhere, iscrowd=1)))
    drawn = masks(root, ignore_index=9)["a.png"]
    assert drawn[1:5, 1:5].eq(1).all()
    assert drawn.eq(9).sum() == 80 - 16


def test_categories_can_be_chosen_merged_and_left_out(data):
    root = data(content(shape(10), shape(20, segmentation=[[6, 6, 8, 6, 8, 8, 6, 8]])))
    assert CocoSource(root, classes=["ground", "stone"]).class_names == ("ground", "stone")
    assert masks(root, classes=["ground", "stone"])["a.png"].unique().tolist() == [0, 1]
    assert CocoSource(root, classes={"thing": ["leaf", "stone"]}).class_names == ("background", "thing")
    assert masks(root, classes={"thing": ["leaf", "stone"]})["a.png"].sum() == 20
    assert CocoSource(root, ignored=["stone"]).class_names == ("background", "leaf")
    assert masks(root, ignored=["stone"])["a.png"].unique().tolist() == [0, 1, 255]


def test_one_file_per_split_is_found_and_its_images_are_in_the_folders_of_the_split(data):
    data(content(shape()), "annotations/instances_train2017.json", "train2017/", ["a.png"])
    root = data(content(shape()), "annotations/instances_val2017.json", "val2017/", ["a.png"])
    (root / "a.png").unlink()
    names = {split: f"annotations/instances_{split}2017.json" for split in ("train", "val")}
    (way,) = CocoSource.recognize(root)
    assert way.settings["annotations"] == names
    assert way.lines[0].startswith("2 images with COCO annotations, 1 in annotations/instances_train2017.json and")
    for options in ({}, {"annotations": names}):
        records = CocoSource(root, **options).records()
        assert [(record.name, record.split) for record in records] == [
            ("train2017/a.png", "train"),
            ("val2017/a.png", "val"),
        ]


def test_files_beside_the_images_of_each_split_are_found(data):
    data(content(shape()), "train/_annotations.coco.json", "train/", ["a.png"])
    root = data(content(shape()), "valid/_annotations.coco.json", "valid/", ["a.png"])
    assert [record.paths[0].parent.name for record in CocoSource(root).records()] == ["train", "valid"]


@pytest.mark.parametrize("written", ["b.png", "images/b.png", "/home/me/set/images/b.png", "..\\other\\b.png"])
def test_an_image_is_found_by_its_name_whatever_its_folder_was(data, written):
    root = data(content(shape(), images=[written]), folder="images/", images=["b.png"])
    assert list(masks(root)) == ["images/b.png"]


def test_a_folder_is_recognized_with_its_categories(data):
    root = data(content(shape(), images=("a.png", "b.png")))
    (way,) = CocoSource.recognize(root)
    assert way.settings == {
        "format": "coco",
        "root": str(root),
        "annotations": "annotations.json",
        "classes": ["background", "leaf", "stone"],
    }
    assert way.lines == (
        "2 images with COCO annotations in annotations.json (data.format=coco)",
        "classes background, leaf, stone from its categories (data.classes)",
    )
    assert CocoSource.recognize(root / "annotations.json") == [way]
    chosen = {name: value for name, value in way.settings.items() if name != "format"}
    assert CocoSource(**chosen).class_names == ("background", "leaf", "stone")


def test_a_file_in_the_folder_annotations_belongs_to_the_folder_above(data):
    root = data(name="annotations/all.json")
    (way,) = CocoSource.recognize(root / "annotations" / "all.json")
    assert (way.settings["root"], way.settings["annotations"]) == (str(root), "annotations/all.json")


def test_files_that_are_no_splits_of_each_other_are_several_ways_to_read_a_folder(data):
    data(name="leaves.json")
    root = data(name="stones.json")
    assert [way.settings["annotations"] for way in CocoSource.recognize(root)] == ["leaves.json", "stones.json"]
    assert "has 2 sets of COCO annotations: leaves.json, stones.json. Set data.annotations" in message(root)
    assert list(masks(root, annotations="stones.json")) == ["a.png"]


def test_other_folders_are_not_recognized(tmp_path, write):
    write("a.png")
    for number, text in enumerate(["", "{", "[]", '{"images": 3}', json.dumps(content(categories=[3])), "\0\xff"]):
        (tmp_path / f"{number}.json").write_text(text)
    captions = content({"image_id": 1, "caption": "a leaf"})
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    assert CocoSource.recognize(tmp_path) == []
    assert CocoSource.recognize(tmp_path / "a.png") == []
    assert CocoSource.recognize(tmp_path / "nowhere") == []
    assert "has 0 sets of COCO annotations. Set data.annotations" in message(tmp_path)


RLE = {"size": [8, 10], "counts": [80]}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([], r"it is \[\]; expected an object"),
        ({"images": [], "annotations": []}, "it has no 'categories'"),
        (content(images=[]), "the annotations in '.*' are for no image"),
        ({**content(), "images": {}}, "its images is {}; expected a list"),
        (content(3), "annotation 1: it is 3; expected an object"),
        (content(shape(id=7, image=4)), r"annotation 1 \(id 7\): its image_id 4 is that of no image"),
        (content(shape(30)), "its category_id 30 is that of no category"),
        (content(shape("10")), "its category_id is '10'; expected a whole number"),
        (content({"image_id": 1, "category_id": 10}), "it has no segmentation; a box alone is no mask"),
        (content({**shape(), "segmentation": []}), "it has no segmentation; a box alone"),
        (content(shape(segmentation=SQUARE)), "its segmentation has 1; expected lists"),
        (content(shape(segmentation="text")), "its segmentation is 'text'; expected a list or an object"),
        (content(shape(segmentation=[[1, 1, 5, 1]])), "it has 2 points; expected 3 or more"),
        (content(shape(segmentation=[SQUARE[:7]])), "it has 7 coordinates, an odd number"),
        (content(shape(segmentation=[[*SQUARE[:7], "5"]])), "it has the coordinate '5'; expected numbers"),
        (content(shape(segmentation=[[*SQUARE[:7], None]])), "it has the coordinate None"),
        (content(shape(segmentation=[[*SQUARE[:7], True]])), "it has the coordinate True"),
        (content(shape(segmentation=[[*SQUARE[:7], 1e300]])), r"it has the coordinate 1e\+300; expected -1e\+07 to"),
        (content(shape(segmentation=[[*SQUARE[:7], 10**400]])), "it has the coordinate 1000"),
        (content(shape(segmentation=[[*SQUARE[:7], float("nan")]])), "is no JSON: it holds NaN, which is no number"),
        (content(shape(segmentation=[[*SQUARE[:7], float("inf")]])), "is no JSON: it holds Infinity"),
        (content(shape(segmentation={**RLE, "counts": [3, -3, 80]})), "its RLE has the length -3"),
        (content(shape(segmentation={**RLE, "counts": [3, 4]})), "its RLE is for 7 pixels; expected 8x10 = 80"),
        (content(shape(segmentation={**RLE, "counts": "é"})), "has characters that no compressed RLE has"),
        (content(shape(segmentation={**RLE, "size": [10, 8]})), r"the size \[10, 8\], but its image \[8, 10\]"),
        (content(shape(segmentation={"counts": [80]})), "it has no 'size'"),
        (content(shape(iscrowd="no")), "its iscrowd is 'no'; expected"),
        (content(images=["gone.png"]), "image 1 .*there is no image 'gone.png' in '.*'. Move"),
        (content(images=["/etc/gone.png"]), "'/etc/gone.png' in '.*', and only images below it are read"),
        (content(images=["../gone.png"]), "'../gone.png' in '.*', and only images below it are read"),
        (content(images=[""]), "there is no image ''"),
        (content(images=["a.png", "a.png"]), "image '.*a.png' is annotated twice, in '.*annotations.json'. Keep one"),
        ({**content(), "images": content()["images"] * 2}, "image 2 .*its id 1 is that of another one"),
        ({**content(), "images": [{"id": 1, "file_name": "a.png"}]}, "it has no 'height'"),
        (content(categories=[{"id": 1, "name": "leaf"}] * 2), "category 2 .*its id 1 is that of another one"),
        (content(categories=[{"id": 1}]), "category 1 .*it has no 'name'"),
        (content(categories=[{"id": n, "name": f"n{n}"} for n in range(255)]), "has 256 classes with the background"),
    ],
)
def test_malformed_annotations_are_refused_with_file_and_entry(data, value, text):
    root = data(value)
    error = message(root, annotations="annotations.json")
    assert re.search(text, error), error
    is_of_all = any(part in error for part in ("for no image", "with the background"))
    assert ("annotations.json" in error) is not is_of_all


def test_a_truncated_file_and_one_that_is_nested_without_end_are_refused(data):
    root = data()
    path = root / "annotations.json"
    path.write_text(path.read_text()[:-30])
    assert "annotations.json' is no JSON: " in message(root, annotations="annotations.json")
    path.write_text("[" * 200_000)
    assert "annotations.json' is nested too deeply" in message(root, annotations="annotations.json")
    path.write_bytes(b"\xff\xfe{")
    assert "annotations.json' cannot be read: 'utf-8' codec" in message(root, annotations="annotations.json")
    assert "gone.json' cannot be read: there is no such file" in message(root, annotations="gone.json")


def test_a_file_that_is_too_large_is_refused_unread(data, monkeypatch):
    root = data()
    monkeypatch.setattr("finetune.data.polygons.annotation_files.MAX_BYTES", 100)
    assert re.search("annotations.json' cannot be read: it has .* bytes; at most 100 are read", message(root))


def test_an_image_of_another_size_than_its_annotations_is_named_with_both(data, write):
    root = data()
    write("a.png", size=(16, 20))
    error = message(root)
    assert re.search(
        r"image '.*a\.png' has 16x20 pixels \(height x width\), but its annotations in '.*json' are for 8x10", error
    )
    write("a.png", size=(10, 8))
    assert "EXIF rotation" in message(root)


def test_the_same_image_in_two_splits_is_refused(data):
    data(name="train.json")
    root = data(name="val.json")
    error = message(root)
    assert re.search(r"annotated twice, in '.*train\.json' and in '.*val\.json' \(as train and val\)", error)


def test_splits_whose_categories_differ_are_refused(data):
    data(content(shape()), "train.json")
    root = data(content(shape(), images=["b.png"], categories=[{"id": 10, "name": "stem"}]), "val.json")
    assert "val.json': category 10 is 'stem', but 'leaf' before" in message(root)


def test_splits_have_known_names():
    with pytest.raises(ValueError, match=r"annotations={'training': 'a'}: expected one path for each of train, val"):
        CocoSource("", annotations={"training": "a"})


def test_damaged_files_are_refused_with_their_name_or_read(data, survives_damage):
    rle = {"size": [8, 10], "counts": "244000" + chr(48 + 21 + 32) + "1" + chr(48 + 29)}
    root = data(content(shape(id=1), shape(20, 2, rle), shape(10, 1, RLE, iscrowd=1), images=("a.png", "b.png")))
    build = lambda: CocoSource(root, annotations="annotations.json")  # noqa: E731
    assert survives_damage(build, root / "annotations.json", named=root.name) > 200


def test_folders_of_splits_in_one_file_are_the_split_unless_all_images_are_in_one_that_is_not_train(data, write):
    names = ("train2017/a.png", "val2017/b.png")
    root = data(content(shape(), images=names), images=names)
    assert {record.name: record.split for record in CocoSource(root).records()} == {names[0]: "train", names[1]: "val"}
    (root / "annotations.json").write_text(json.dumps(content(shape(), images=names[1:])))
    assert [record.split for record in CocoSource(root).records()] == [""]
    others = ("train/a.png", "extra/b.png")
    root = data(content(shape(), images=others), images=others, folder="other/") / "other"
    (root / "annotations.json").write_text(json.dumps(content(shape(), images=others)))
    assert {record.split for record in CocoSource(root).records()} == {""}
