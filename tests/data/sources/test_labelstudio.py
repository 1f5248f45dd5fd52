import json
import re

import numpy as np
import pytest
import torch

from finetune.data import DataError, inspect
from finetune.data.sources.labelstudio import LabelStudioSource

SQUARE = [[10, 12.5], [50, 12.5], [50, 62.5], [10, 62.5]]  # percent: columns 1 to 4 and rows 1 to 4 of 10 x 8


def result(kind="polygonlabels", label="leaf", size=(8, 10), **value):
    labels = {kind if kind.endswith("labels") else "labels": [label]}
    value = {"points": SQUARE} | value if kind.startswith("polygon") else value
    return {"type": kind, "original_height": size[0], "original_width": size[1], "value": {**value, **labels}}


def annotation(*results, **others):
    return {"id": 1, "result": list(results), "was_cancelled": False, **others}


def task(*annotations, image="/data/upload/1/a.png", **others):
    return {"id": 5, "data": {"image": image}, "annotations": list(annotations), **others}


def brush(mask):
    """Write RGBA as one run for each pixel, all with lengths of the first kind (4 bits)."""
    bits = [f"{mask.size * 4:032b}", "00111", "0011" * 4]
    bits += [f"1000011{255 * int(covered):08b}" for covered in mask.ravel()]  # a run of 3 + 1 equal bytes
    stream = "".join(bits)
    stream += "0" * (-len(stream) % 8)
    return [int(stream[start : start + 8], 2) for start in range(0, len(stream), 8)]


@pytest.fixture
def data(write, tmp_path):
    """Write a JSON export and the images a.png and b.png, and return the folder."""

    def save(*tasks, images=("a.png", "b.png"), value=None):
        for image in images:
            write(image)
        content = list(tasks or [task(annotation(result()))]) if value is None else value
        (tmp_path / "export.json").write_text(json.dumps(content))
        return tmp_path

    return save


def masks(root, **options):
    source = LabelStudioSource(root, annotations="export.json", **options)
    return {record.name: record.target.read() for record in source.records()}


def message(root, **options):
    with pytest.raises(DataError) as error:
        masks(root, **options)
    return str(error.value)


def test_polygons_in_percent_are_drawn_in_the_order_of_the_results(data):
    later = result(label="a stone", points=[[30, 12.5], [70, 12.5], [70, 37.5], [30, 37.5]])
    root = data(task(annotation(result(), later)), task(annotation(), image="/data/upload/1/b.png"))
    expected = torch.zeros(8, 10, dtype=torch.uint8)
    expected[1:5, 1:5] = 2
    expected[1:3, 3:7] = 1
    source = LabelStudioSource(root)
    assert source.class_names == ("background", "a stone", "leaf")
    assert (masks(root)["a.png"] == expected).all()
    assert not masks(root)["b.png"].any()
    assert inspect(source.records(), 3)[""].pixels.tolist() == [140, 8, 12]


def test_rectangles_turn_clockwise_about_their_corner(data):
    plain = result("rectanglelabels", x=30, y=12.5, width=40, height=25)
    turned = result("rectanglelabels", x=70, y=12.5, width=20, height=50, rotation=90)  # 2 x 4 pixels -> 4 x 2
    for region in (plain, turned):
        drawn = masks(data(task(annotation(region))))["a.png"]
        assert drawn[1:3, 3:7].all()
        assert drawn.sum() == 8


def test_ellipses_have_radii_in_percent_of_width_and_height(data):
    y, x = np.mgrid[:8, :10] + 0.5
    drawn = masks(data(task(annotation(result("ellipselabels", x=50, y=50, radiusX=30, radiusY=25)))))["a.png"]
    assert (drawn.numpy() == (((x - 5) / 3) ** 2 + ((y - 4) / 2) ** 2 <= 1)).all()
    turned = masks(data(task(annotation(result("ellipselabels", x=50, y=50, radiusX=30, radiusY=25, rotation=90)))))
    assert (turned["a.png"].numpy() == (((x - 5) / 2) ** 2 + ((y - 4) / 3) ** 2 <= 1)).all()


def test_brush_strokes_are_drawn(data):
    mask = np.random.default_rng(0).random((8, 10)) < 0.4
    drawn = masks(data(task(annotation(result("brushlabels", format="rle", rle=brush(mask))))))["a.png"]
    assert (drawn.numpy() == mask).all()


def test_labels_may_be_separate_from_the_shapes_and_other_results_are_passed_over(data):
    choice = {"type": "choices", "value": {"choices": ["sunny"]}}
    assert masks(data(task(annotation(choice, result("polygon")))))["a.png"].sum() == 16


@pytest.mark.parametrize(
    "address",
    [
        "/data/upload/3/1a2b3c4d-a.png",
        "1a2b3c4d-a.png",
        "s3://bucket/leaves/a.png",
        "/data/local-files/?d=leaves/a.png",
        "https://example.com/x/a.png?token=7",
        "C:\\leaves\\a.png",
    ],
)
def test_an_image_is_found_by_its_file_name(data, address):
    assert list(masks(data(task(annotation(result()), image=address)))) == ["a.png"]


def test_names_with_escaped_letters_are_found(data):
    root = data(task(annotation(result()), image="s3://bucket/a%20b.png"), images=["a b.png"])
    assert list(masks(root)) == ["a b.png"]


def test_tasks_that_nobody_annotated_or_that_were_skipped_are_left_out(data):
    skipped = {**annotation(result()), "was_cancelled": True}
    root = data(task(annotation(result())), task(image="b.png"), task(skipped, image="b.png"))
    assert list(masks(root)) == ["a.png"]


def test_of_several_annotations_the_ground_truth_counts(data):
    other = annotation(result(label="stone"))
    assert "it has 2 annotations, and 0 of them are the ground truth" in message(data(task(annotation(), other)))
    root = data(task(annotation(), annotation(result(label="stone"), ground_truth=True)))
    assert LabelStudioSource(root).class_names == ("background", "stone")


def test_a_file_is_recognized_and_others_are_not(data, tmp_path):
    for number, text in enumerate(["", "[", "[]", '{"result": [], "annotations": []}', "\0"]):
        (tmp_path / f"{number}.json").write_text(text)
    assert LabelStudioSource.recognize(tmp_path) == []
    assert LabelStudioSource.recognize(tmp_path / "nowhere") == []
    root = data()
    (way,) = LabelStudioSource.recognize(root)
    assert way.settings == {"format": "labelstudio", "root": str(root), "annotations": "export.json"}
    assert LabelStudioSource.recognize(root / "export.json") == [way]


def labeled(kind, **value):
    return task(annotation(result(kind, **value)))


@pytest.mark.parametrize(
    ("tasks", "text"),
    [
        ([3], "task 1: it is 3; expected an object"),
        ([{"id": 5}], r"task 1 \(id 5\): it has no 'annotations'"),
        ([{"annotations": [annotation()]}], "it has no 'data'"),
        ([{"annotations": [annotation()], "data": {"text": "hello"}}], "its data is {'text': 'hello'}; expected one"),
        ([task(annotation(), image="http://[")], "expected one image"),
        ([task(annotation(), image="gone.png")], "there is no image 'gone.png'"),
        ([task(annotation(), image="../../gone.png")], "and only images below it are read"),
        ([task(3)], "it is 3; expected an object"),
        ([task({"result": {}})], "its result is {}; expected a list"),
        ([task(annotation(3))], "result 1: it is 3; expected an object"),
        ([task(annotation({"value": {}}))], "it has no 'type'"),
        ([task(annotation({**result(), "original_width": None}))], "its original_width is None; expected a number"),
        ([task(annotation(result(size=(8, 0))))], "its original_width is 0; expected a number of pixels"),
        ([task(annotation(result(), result(size=(16, 20))))], r"are for images of several sizes: \[\(8, 10\), \(16,"),
        ([task(annotation(result(label=7)))], r"its labels are \[7\]; expected one label"),
        ([task(annotation({**result("polygon"), "value": {"points": SQUARE}}))], "it has no 'labels'"),
        ([labeled("keypointlabels", x=1, y=1, width=1)], "it is a 'keypointlabels', which is not read"),
        ([labeled("polygonlabels", points=[[1, 1], [2, 2]])], "it has 2 points; expected 3"),
        ([labeled("polygonlabels", points=[[1, 1], [2, 2], ["3", 3]])], "it has the coordinate '3'"),
        ([labeled("rectanglelabels", x=1, y=1, width=1)], "it has no 'height'"),
        ([labeled("rectanglelabels", x=1, y=1, width=1, height=None)], "its height is None; expected a number"),
        ([labeled("ellipselabels", x=1, y=1, radiusX=0, radiusY=1)], "its radiusX is 0; expected 0.001"),
        ([labeled("brushlabels", format="png", rle=[])], "its format is 'png'; expected rle"),
        ([labeled("brushlabels", format="rle", rle=[1, 2])], "its RLE of 2 bytes is cut off"),
        ([labeled("brushlabels", format="rle", rle=[1, -2])], "its RLE has values that are no bytes"),
        ([labeled("brushlabels", format="rle", rle="text")], "its rle is 'text'; expected a list"),
        ([labeled("brushlabels", format="rle", rle=brush(np.zeros((3, 4))))], "is for 48 values of 8 bits"),
        ([task(annotation()), task(annotation())], "image '.*a.png' is annotated twice"),
    ],
)  # fmt: skip
def test_malformed_tasks_are_refused_with_file_and_result(data, tasks, text):
    error = message(data(*tasks))
    assert re.search(text, error), error
    assert "export.json'" in error


def test_other_contents_are_refused(data):
    assert "export.json' holds {'tasks': []}; expected a list of tasks" in message(data(value={"tasks": []}))
    root = data()
    (root / "export.json").write_text((root / "export.json").read_text()[:-30])
    assert "export.json' is no JSON: " in message(root)


def test_an_image_of_another_size_than_its_annotations_is_named(data, write):
    root = data()
    write("a.png", size=(10, 8))
    assert re.search(r"image '.*a\.png' has 10x8 pixels .* in '.*export\.json' are for 8x10. If .* EXIF", message(root))


def test_damaged_files_are_refused_with_their_name_or_read(data, survives_damage):
    stroke = result("brushlabels", format="rle", rle=brush(np.eye(8, 10) > 0))
    ellipse = result("ellipselabels", x=50, y=50, radiusX=30, radiusY=25, rotation=5)
    root = data(task(annotation(result(), ellipse)), task(annotation(stroke), image="b.png"))
    build = lambda: LabelStudioSource(root, annotations="export.json")  # noqa: E731
    assert survives_damage(build, root / "export.json", named=root.name) > 150
