import json
import re

import numpy as np
import pytest
import torch

from finetune.data import DataError, inspect
from finetune.data.sources.via import ViaSource


def polygon(x=(1, 5, 5, 1), y=(1, 1, 5, 5)):
    return {"name": "polygon", "all_points_x": list(x), "all_points_y": list(y)}


def region(shape=None, **attributes):
    return {"shape_attributes": shape or polygon(), "region_attributes": attributes or {"class": "leaf"}}


def entry(*regions, name="a.png"):
    return {"filename": name, "size": 123, "regions": list(regions), "file_attributes": {}}


def content(*entries):
    return {f"{e['filename']}{e['size']}": e for e in entries}


@pytest.fixture
def data(write, tmp_path):
    """Write a JSON file and the images a.png and b.png, and return the folder."""

    def save(value=None, images=("a.png", "b.png")):
        for image in images:
            write(image)
        (tmp_path / "via.json").write_text(json.dumps(content(entry(region())) if value is None else value))
        return tmp_path

    return save


def masks(root, **options):
    return {record.name: record.target.read() for record in ViaSource(root, **options).records()}


def message(root, **options):
    with pytest.raises(DataError) as error:
        ViaSource(root, annotations="via.json", **options).records()
    return str(error.value)


def test_regions_are_drawn_with_the_labels_in_the_order_of_their_names(data):
    stone = region({"name": "rect", "x": 3, "y": 1, "width": 4, "height": 2}, **{"class": "a stone"})
    root = data(content(entry(region(), stone), entry(name="b.png")))
    expected = torch.zeros(8, 10, dtype=torch.uint8)
    expected[1:5, 1:5] = 2
    expected[1:3, 3:7] = 1
    source = ViaSource(root)
    assert source.class_names == ("background", "a stone", "leaf")
    assert (masks(root)["a.png"] == expected).all()
    assert inspect(source.records(), 3)[""].pixels.tolist() == [140, 8, 12]


def test_circles_and_ellipses_are_drawn(data):
    y, x = np.mgrid[:8, :10] + 0.5
    circle = {"name": "circle", "cx": 5, "cy": 4, "r": 2.5}
    assert (masks(data(content(entry(region(circle)))))["a.png"].numpy() == ((x - 5) ** 2 + (y - 4) ** 2 <= 6.25)).all()
    upright = ((x - 5) / 1.5) ** 2 + ((y - 4) / 3.5) ** 2 <= 1
    for ellipse in (
        {"rx": 1.5, "ry": 3.5},
        {"rx": 1.5, "ry": 3.5, "theta": 0},
        {"rx": 3.5, "ry": 1.5, "theta": np.pi / 2},
    ):
        root = data(content(entry(region({"name": "ellipse", "cx": 5, "cy": 4, **ellipse}))))
        assert (masks(root)["a.png"].numpy() == upright).all()


def test_a_project_and_the_numbered_regions_of_version_1_are_read(data):
    numbered = {**entry(), "regions": {"0": region()}}
    for value in ({"_via_settings": {}, "_via_img_metadata": content(numbered)}, content(numbered), [numbered]):
        assert masks(data(value))["a.png"].sum() == 16


def test_the_label_is_the_only_attribute_or_the_one_that_is_named(data):
    root = data(
        content(
            entry(region(kind="leaf", state="dry"), region(polygon((6, 8, 8), (6, 6, 8)), kind="leaf", state="wet"))
        )
    )
    assert "have several attributes: kind, state. Set data.attribute" in message(root)
    assert ViaSource(root, attribute="state").class_names == ("background", "dry", "wet")
    assert ViaSource(root, attribute="kind").class_names == ("background", "leaf")


def test_a_checkbox_with_one_option_is_a_label(data):
    root = data(content(entry(region(kind={"leaf": True, "stem": False}))))
    assert ViaSource(root).class_names == ("background", "leaf")
    assert "expected one label" in message(data(content(entry(region(kind={"leaf": True, "stem": True})))))


def test_a_file_is_recognized(data):
    root = data()
    (way,) = ViaSource.recognize(root)
    assert way.settings == {"format": "via", "root": str(root), "annotations": "via.json"}
    assert ViaSource.recognize(root / "via.json") == [way]
    (root / "other.json").write_text((root / "via.json").read_text())
    assert len(ViaSource.recognize(root)) == 2
    with pytest.raises(DataError, match=r"has 2 VIA files: other\.json, via\.json\. Set data\.annotations"):
        ViaSource(root).records()


def test_other_folders_are_not_recognized(tmp_path):
    for number, text in enumerate(["", "[", "{}", '{"shapes": [], "imagePath": "a.png"}', "\0"]):
        (tmp_path / f"{number}.json").write_text(text)
    assert ViaSource.recognize(tmp_path) == []
    assert ViaSource.recognize(tmp_path / "nowhere") == []
    with pytest.raises(DataError, match="has no VIA files"):
        ViaSource(tmp_path).records()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "via.json': it holds 3; expected an object"),
        ({"a": 3}, "image 1: it is 3; expected an object"),
        ({"a": {"regions": []}}, "image 1: it has no 'filename'"),
        ({"a": {"filename": "a.png"}}, "image 1: it has no 'regions'"),
        (content({**entry(), "regions": 3}), "its regions is 3; expected a list or an object"),
        (content(entry(name="gone.png")), "there is no image 'gone.png'"),
        (content(entry(3)), "region 1: it is 3; expected an object"),
        (content(entry({"region_attributes": {"class": "a"}})), "it has no 'shape_attributes'"),
        (content(entry({"shape_attributes": polygon()})), "it has no 'region_attributes'"),
        (content(entry(region(**{"class": ""}))), "its attribute 'class' is ''; expected one label"),
        (content(entry(region(**{"class": 3}))), "its attribute 'class' is 3; expected one label"),
        (content(entry(region({"name": "polyline"}))), "it is a 'polyline', which has no area"),
        (content(entry(region({"name": "point", "cx": 1, "cy": 1}))), "it is a 'point', which has no area"),
        (content(entry(region(polygon(x=(1, 2))))), "it has 2 x and 4 y"),
        (content(entry(region(polygon((1, 2), (1, 2))))), "it has 2 points; expected 3"),
        (content(entry(region(polygon(("1", 2, 3), (1, 2, 3))))), "it has the coordinate '1'"),
        (content(entry(region({"name": "polygon", "all_points_x": 3, "all_points_y": []}))), "its all_points_x is 3"),
        (content(entry(region({"name": "rect", "x": 1, "y": 1, "width": 3}))), "it has no 'height'"),
        (content(entry(region({"name": "rect", "x": 1, "y": 1, "width": 3, "height": "3"}))), "its height is '3'"),
        (content(entry(region({"name": "circle", "cx": 1, "cy": 1, "r": 0}))), "its r is 0; expected 0.001 to"),
        (content(entry(region({"name": "circle", "cx": 1, "cy": 1e200, "r": 1}))), r"its cy is 1e\+200; expected"),
        (content(entry(region({"name": "ellipse", "cx": 1, "cy": 1, "rx": -1, "ry": 1}))), "its rx is -1; expected"),
        ([entry(), entry()], "image '.*a.png' is annotated twice"),
    ],
)  # fmt: skip
def test_malformed_regions_are_refused_with_file_and_region(data, value, text):
    error = message(data(value))
    assert re.search(text, error), error
    assert "via.json'" in error


def test_a_truncated_file_is_refused(data):
    root = data()
    (root / "via.json").write_text((root / "via.json").read_text()[:-30])
    assert "via.json' is no JSON: " in message(root)


def test_damaged_files_are_refused_with_their_name_or_read(data, survives_damage):
    root = data(content(entry(region(), region({"name": "circle", "cx": 5, "cy": 4, "r": 2.5})), entry(name="b.png")))
    build = lambda: ViaSource(root, annotations="via.json")  # noqa: E731
    assert survives_damage(build, root / "via.json", named=root.name) > 150
