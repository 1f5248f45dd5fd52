import base64
import io
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from finetune.data import DataError, inspect
from finetune.data.sources.labelme import LabelmeSource

SQUARE = [[1, 1], [5, 1], [5, 5], [1, 5]]


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()


def shape(label="leaf", points=None, **others):
    return {"label": label, "points": SQUARE if points is None else points, "shape_type": "polygon", **others}


def content(*shapes, **others):
    size = {"imageHeight": 8, "imageWidth": 10}
    return {
        "version": "5.4.1",
        "flags": {},
        "shapes": list(shapes),
        "imagePath": "a.png",
        "imageData": None,
        **size,
    } | others


@pytest.fixture
def data(write, tmp_path):
    """Write a JSON file for each name, and the images a.png and b.png, and return the folder."""

    def save(value=None, images=("a.png", "b.png"), **files):
        for image in images:
            write(image)
        for name, text in (files or {"a": content(shape()) if value is None else value}).items():
            path = tmp_path / f"{name}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(text))
        return tmp_path

    return save


def masks(root, **options):
    return {record.name: record.target.read() for record in LabelmeSource(root, **options).records()}


def message(root, **options):
    with pytest.raises(DataError) as error:
        [record.target.read() for record in LabelmeSource(root, **options).records()]
    return str(error.value)


def test_shapes_are_drawn_with_the_labels_in_the_order_of_their_names(data):
    later = shape("a stone", [[3, 1], [7, 3]], shape_type="rectangle")
    root = data(content(shape("leaf"), later))
    expected = torch.zeros(8, 10, dtype=torch.uint8)
    expected[1:5, 1:5] = 2
    expected[1:3, 3:7] = 1
    source = LabelmeSource(root)
    assert source.class_names == ("background", "a stone", "leaf")
    assert (masks(root)["a.png"] == expected).all()
    assert inspect(source.records(), 3)[""].pixels.tolist() == [60, 8, 12]


def test_an_image_without_a_file_is_left_out_and_one_without_shapes_is_background(data):
    root = data(a=content(shape()), b=content(), images=("a.png", "b.png", "c.png"))
    assert list(masks(root)) == ["a.png", "b.png"]
    assert not masks(root)["b.png"].any()


def test_a_circle_is_a_center_and_a_point_on_the_line(data):
    drawn = masks(data(content(shape(points=[[5, 4], [5, 1.5]], shape_type="circle"))))["a.png"]
    y, x = np.mgrid[:8, :10] + 0.5
    assert (drawn.numpy() == ((x - 5) ** 2 + (y - 4) ** 2 <= 2.5**2)).all()


def test_a_mask_fills_the_box_of_its_two_points(data):
    pixels = np.array([[1, 0, 1], [0, 255, 0]], dtype=np.uint8)
    for image in (pixels, pixels > 0):
        mask = shape(points=[[2.0, 3.0], [4.0, 4.0]], shape_type="mask", mask=png(image))
        drawn = masks(data(content(mask)))["a.png"]
        expected = np.zeros((8, 10), dtype=int)
        expected[3:5, 2:5] = pixels > 0
        assert (drawn.numpy() == expected).all()


def test_older_files_without_sizes_and_kinds_of_shapes_are_read(data):
    old = {"shapes": [{"label": "leaf", "points": SQUARE, "line_color": None}], "imagePath": "a.png", "imageData": None}
    assert masks(data(old))["a.png"].sum() == 16


@pytest.mark.parametrize("folder", ["", "json/"])
def test_a_file_belongs_to_the_image_of_its_name_however_old_its_image_path_is(data, folder):
    path = "C:\\Users\\me\\old.png"
    root = data(images=["images/a.png", "images/b.png"], **{f"{folder}a": content(shape(), imagePath=path)})
    assert list(masks(root)) == ["images/a.png"]


def test_of_several_images_of_its_name_a_file_belongs_to_the_one_that_it_names(data):
    root = data(images=["images/a.png", "masks/a.png"], **{"json/a": content(shape(), imagePath="../images/a.png")})
    assert list(masks(root)) == ["images/a.png"]


def test_a_file_with_another_name_belongs_to_its_image_path(data):
    root = data(images=["images/a.png"], **{"json/7": content(shape(), imagePath="..\\images\\a.png")})
    assert list(masks(root)) == ["images/a.png"]


def test_folders_are_the_splits(data):
    root = data(images=["train/a.png", "val/a.png"], **{"train/a": content(), "val/a": content(shape())})
    assert [(record.name, record.split) for record in LabelmeSource(root).records()] == [
        ("train/a.png", "train"),
        ("val/a.png", "val"),
    ]


def test_labels_can_be_chosen_merged_and_ignored(data):
    root = data(
        content(shape("leaf"), shape("stem", [[6, 6], [8, 6], [8, 8], [6, 8]]), shape("Background", SQUARE[:3]))
    )
    assert LabelmeSource(root).class_names == ("Background", "leaf", "stem")
    assert masks(root, classes=["Background", "stem"])["a.png"].sum() == 4
    merged = masks(root, classes={"plant": ["leaf", "stem"]})["a.png"]
    assert 0 < 16 - merged[1:5, 1:5].sum() < 12  # the background is drawn, too
    assert masks(root, ignored=["stem"], ignore_index=6)["a.png"].unique().tolist() == [0, 1, 6]


def test_other_json_files_without_an_image_are_passed_over(data):
    root = data(a=content(shape()), meta={"classes": 3}, listing=[1, 2])
    assert list(masks(root)) == ["a.png"]


def test_a_folder_is_recognized_and_images_left_out_are_counted(data):
    root = data(images=("a.png", "b.png", "c.png"))
    (way,) = LabelmeSource.recognize(root)
    assert way.settings == {"format": "labelme", "root": str(root)}
    assert way.lines[0] == "1 JSON files of labelme (data.format=labelme); 2 images have none and are left out"


def test_other_folders_are_not_recognized(tmp_path):
    for number, text in enumerate(["", "[", "{}", '{"images": [], "annotations": [], "categories": []}', "\0"]):
        (tmp_path / f"{number}.json").write_text(text)
    assert LabelmeSource.recognize(tmp_path) == []
    assert LabelmeSource.recognize(tmp_path / "1.json") == []
    assert LabelmeSource.recognize(tmp_path / "nowhere") == []


MASK = {"shape_type": "mask", "points": [[2, 3], [4, 4]]}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([], r"a.json': it is \[\]; expected an object"),
        ({"imagePath": "a.png"}, "it has no 'shapes'"),
        (content(shapes={}), "its shapes is {}; expected a list"),
        (content(3), "shape 1: it is 3; expected an object"),
        (content({"points": SQUARE}), "it has no 'label'"),
        (content(shape(7)), "its label is 7; expected text"),
        (content(shape(points=3)), "its points is 3; expected a list"),
        (content(shape(points=[[1, 1], [2, 2]])), "it has 2 points; expected 3 or more"),
        (content(shape(points=[[1, 1], [2, 2], [3]])), r"it has the point \[3\]; expected \[x, y\]"),
        (content(shape(points=[[1, 1], [2, 2], [3, "4"]])), "it has the coordinate '4'; expected numbers"),
        (content(shape(points=[[1, 1], [2, 2], [3, 1e9]])), r"it has the coordinate 1000000000.0; expected -1e\+07"),
        (content(shape(points=[[1, 1], [2, 2], [3, float("nan")]])), "a.json' is no JSON: it holds NaN"),
        (content(shape(shape_type="line")), "its shape_type is 'line', which has no area. Draw a polygon"),
        (content(shape(shape_type="rectangle")), "it is a rectangle of 4 points; expected 2"),
        (content(shape(points=[[1, 1], [1, 1]], shape_type="circle")), "it is a circle of radius 0"),
        (content(shape(**MASK)), "it has no 'mask'"),
        (content(shape(**MASK, mask="?")), "its mask is not base64"),
        (content(shape(**MASK, mask="aGVsbG8=")), "its mask is no PNG"),
        (content(shape(**MASK, mask=png(np.ones((2, 3, 3), np.uint8)))), "its mask is a color image"),
        (
            content(shape(**MASK, mask=png(np.ones((3, 2), np.uint8)))),
            "its mask has 3x2 pixels, but its points are for 2x3",
        ),
        (content(shape(**MASK, mask=png(np.ones((2, 3), np.uint8))[:-40])), "its mask is no PNG"),
        (content(shape(), imageHeight="8"), "its imageHeight is '8'; expected a number"),
        (content(shape(), imageWidth=None), "its imageWidth is None; expected a number"),
        (content(shape(), imageWidth=-3), "its imageWidth is -3; expected a number of pixels"),
        (content(shape(), imageWidth=9), "image '.*a.png' has 8x10 pixels .*annotations in '.*a.json' are for 8x9"),
    ],
)
def test_malformed_files_are_refused_with_their_name_and_shape(data, value, text):
    error = message(data(value))
    assert re.search(text, error), error
    assert "a.json'" in error


def test_a_file_whose_image_is_missing_is_named(data):
    root = data(**{"x/seven": content(imagePath="../../other/gone.png")})
    error = message(root)
    assert re.search(
        r"seven\.json': there is no image '\.\./\.\./other/gone\.png' in '.*', and only images below", error
    )


def test_two_files_for_one_image_are_refused(data):
    root = data(**{"a": content(), "x/a": content()}, images=["a.png"])
    assert re.search(r"image '.*a\.png' is annotated twice, in '.*a\.json' and in '.*x/a\.json'", message(root))


def test_a_truncated_file_and_a_folder_without_any_are_refused(data, tmp_path):
    assert "the annotations in" in message(tmp_path)
    assert "is not a folder" in message(tmp_path / "nowhere")
    root = data()
    (root / "a.json").write_text((root / "a.json").read_text()[:-30])
    assert "a.json' is no JSON: " in message(root)


def test_damaged_files_are_refused_with_their_name_or_read(data, survives_damage):
    mask = shape(**MASK, mask=png(np.ones((2, 3), np.uint8)))
    root = data(content(shape(), mask, shape(points=[[5, 4], [5, 1.5]], shape_type="circle")))
    assert survives_damage(lambda: LabelmeSource(root), root / "a.json", named=root.name) > 200
