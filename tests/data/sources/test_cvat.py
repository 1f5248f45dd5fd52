import re

import numpy as np
import pytest
import torch

from finetune.data import DataError, inspect
from finetune.data.sources.cvat import CvatSource

META = "<meta><task><labels><label><name>stone</name></label><label><name>leaf</name></label></labels></task></meta>"
POLYGON = '<polygon label="leaf" points="1.0,1.0;5.0,1.0;5.0,5.0;1.0,5.0" z_order="0"/>'


def image(*shapes, name="a.png", width="10", height="8", others=""):
    return f'<image id="0" name="{name}" width="{width}" height="{height}" {others}>{"".join(shapes)}</image>'


def document(*images, meta=META):
    start = '<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version>'
    return f"{start}{meta}{''.join(images)}</annotations>"


@pytest.fixture
def data(write, tmp_path):
    """Write an XML file and the images a.png and b.png, and return the folder."""

    def save(text=None, images=("a.png", "b.png")):
        for name in images:
            write(name)
        content = document(image(POLYGON)) if text is None else text
        (tmp_path / "annotations.xml").write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path

    return save


def masks(root, **options):
    source = CvatSource(root, annotations="annotations.xml", **options)
    return {record.name: record.target.read() for record in source.records()}


def message(root, **options):
    with pytest.raises(DataError) as error:
        masks(root, **options)
    return str(error.value)


def test_shapes_are_drawn_with_the_labels_in_the_order_of_the_file(data):
    box = '<box label="stone" xtl="3" ytl="1" xbr="7" ybr="3" z_order="0"/>'
    root = data(document(image(POLYGON, box), image(name="b.png")))
    expected = torch.zeros(8, 10, dtype=torch.uint8)
    expected[1:5, 1:5] = 2
    expected[1:3, 3:7] = 1
    source = CvatSource(root)
    assert source.class_names == ("background", "stone", "leaf")
    assert (masks(root)["a.png"] == expected).all()
    assert inspect(source.records(), 3)[""].pixels.tolist() == [140, 8, 12]


def test_the_z_order_decides_what_is_on_top(data):
    box = '<box label="stone" xtl="3" ytl="1" xbr="7" ybr="3" z_order="-1"/>'
    assert masks(data(document(image(POLYGON, box))))["a.png"].flatten().bincount().tolist() == [60, 4, 16]


def test_a_mask_has_its_rows_in_a_box(data):
    mask = '<mask label="leaf" rle="1, 1, 1, 3" left="2" top="3" width="3" height="2" z_order="0"/>'
    drawn = masks(data(document(image(mask))))["a.png"]
    assert drawn[3:5, 2:5].tolist() == [[0, 2, 0], [2, 2, 2]]
    assert drawn.count_nonzero() == 4


def test_boxes_and_ellipses_turn_clockwise_about_their_centers(data):
    y, x = np.mgrid[:8, :10] + 0.5
    box = '<box label="stone" xtl="4" ytl="1" xbr="6" ybr="5" rotation="90.0"/>'
    drawn = masks(data(document(image(box))))["a.png"]
    assert drawn[2:4, 3:7].all()
    assert drawn.sum() == 8
    ellipse = '<ellipse label="stone" cx="5" cy="4" rx="3.5" ry="1.5"{}/>'
    flat = masks(data(document(image(ellipse.format("")))))["a.png"].numpy()
    assert (flat == (((x - 5) / 3.5) ** 2 + ((y - 4) / 1.5) ** 2 <= 1)).all()
    turned = masks(data(document(image(ellipse.format(' rotation="90"')))))["a.png"].numpy()
    assert (turned == (((x - 5) / 1.5) ** 2 + ((y - 4) / 3.5) ** 2 <= 1)).all()
    slanted = masks(data(document(image(ellipse.format(' rotation="40"')))))["a.png"]
    assert slanted[5, 6] == 1  # down to the right
    assert slanted[5, 3] == 0


def test_labels_that_are_not_listed_come_last(data):
    root = data(document(image(POLYGON.replace("leaf", "a"), POLYGON.replace("leaf", "<b>".replace("<", "&lt;")))))
    assert CvatSource(root).class_names == ("background", "stone", "leaf", "<b>", "a")


def test_subsets_and_else_folders_are_the_splits(data):
    images = ("train/a.png", "val/b.png")
    both = [
        image(name=name, others=f'subset="{subset}"')
        for name, subset in zip(images, ("Validation", "train"), strict=True)
    ]
    assert [(r.name, r.split) for r in CvatSource(data(document(*both), images)).records()] == [
        ("val/b.png", "train"),
        ("train/a.png", "val"),
    ]
    both = [image(name=name, others='subset="default"') for name in images]
    assert [record.split for record in CvatSource(data(document(*both), images)).records()] == ["train", "val"]


def test_tags_and_attributes_are_passed_over(data):
    tag = '<tag label="sunny"><attribute name="a">1</attribute></tag>'
    assert masks(data(document(image(tag, POLYGON))))["a.png"].count_nonzero() == 16


def test_a_file_is_recognized_and_others_are_not(data, tmp_path):
    for number, text in enumerate(["", "<", "<annotation><object/></annotation>", "\0", document("<track id='0'/>")]):
        (tmp_path / f"{number}.xml").write_text(text)
    assert CvatSource.recognize(tmp_path) == []
    assert CvatSource.recognize(tmp_path / "nowhere") == []
    root = data()
    (way,) = CvatSource.recognize(root)
    assert way.settings == {"format": "cvat", "root": str(root), "annotations": "annotations.xml"}
    assert CvatSource.recognize(root / "annotations.xml") == [way]


BOMB = '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("doctype", [BOMB, '<!DOCTYPE a SYSTEM "file:///etc/passwd">', "<!DOCTYPE annotations>"])
def test_a_doctype_is_refused_in_any_encoding(data, doctype, encoding):
    text = document(image(POLYGON)).replace("?><", f"?>{doctype}<", 1).replace("utf-8", encoding)
    assert "annotations.xml' cannot be read as XML: it has a DOCTYPE" in message(data(text.encode(encoding)))


def test_a_file_in_utf_16_is_read(data):
    text = document(image(POLYGON)).replace("utf-8", "utf-16")
    assert masks(data(text.encode("utf-16")))["a.png"].count_nonzero() == 16


def test_a_file_that_is_too_large_is_refused_unread(data, monkeypatch):
    monkeypatch.setattr("finetune.data.sources.cvat.MAX_BYTES", 100)
    assert re.search("annotations.xml' has .* bytes; at most 100 are read", message(data()))


def shape(text):
    return document(image(text))


MASK = '<mask label="leaf" rle="{}" left="2" top="3" width="3" height="2"/>'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "cannot be read as XML: no element found"),
        (document(image(POLYGON))[:-30], "cannot be read as XML"),
        ('<?xml version="1.0" encoding="klingon"?><annotations/>', "cannot be read as XML"),
        (document(image("&a;")), "cannot be read as XML: undefined entity"),
        ("<annotation/>", "is not in the format 'CVAT for images 1.1': it has <annotation>"),
        (document("<track/>"), "it has <annotations> with tracks of a video. Export it in that format"),
        (document('<image id="0" width="10" height="8"/>'), "image 1: it has no 'name'"),
        (document(image(name="gone.png")), "image 'gone.png': there is no image 'gone.png'"),
        (document(image(name="../gone.png")), "and only images below it are read"),
        (document(image(width="0")), "its width is '0'; expected 1 to"),
        (document(image(height="tall")), "its height is 'tall'; expected a number"),
        (document(image(), image()), "image '.*a.png' is annotated twice"),
        (shape('<polyline label="leaf"/>'), "image 'a.png', shape 1: it is a polyline, which has no area"),
        (shape('<polygon points="1,1;2,2;3,3"/>'), "it has no 'label'"),
        (shape('<polygon label="leaf"/>'), "it has no 'points'"),
        (shape('<polygon label="leaf" points=""/>'), "it has the value ''; expected numbers"),
        (shape('<polygon label="leaf" points="1,1;2,2"/>'), "it has 2 points; expected 3"),
        (shape('<polygon label="leaf" points="1,1;2,2;3"/>'), "it has 5 coordinates, an odd number"),
        (shape('<polygon label="leaf" points="1,1;2,2;3,x"/>'), "it has the value 'x'; expected numbers"),
        (shape('<polygon label="leaf" points="1,1;2,2;3,nan"/>'), "it has the coordinate nan"),
        (shape('<polygon label="leaf" points="1,1;2,2;3,inf"/>'), "it has the coordinate inf"),
        (shape('<box label="leaf" xtl="1" ytl="1" xbr="3"/>'), "it has no 'ybr'"),
        (shape('<box label="leaf" xtl="1" ytl="1" xbr="3" ybr="1e300"/>'), r"its ybr is '1e300'; expected -1e\+07"),
        (shape('<box label="leaf" xtl="1" ytl="1" xbr="3" ybr="3" z_order="top"/>'), "its z_order is 'top'"),
        (shape('<ellipse label="leaf" cx="1" cy="1" rx="0" ry="1"/>'), "its rx is '0'; expected 0.001"),
        (shape('<ellipse label="leaf" cx="1" cy="1" rx="1" ry="1" rotation="nan"/>'), "its rotation is 'nan'"),
        (shape(MASK.format("1, -1, 6")), "its RLE has the length -1"),
        (shape(MASK.format("1, 4")), "its RLE is for 5 pixels; expected 2x3 = 6"),
        (shape(MASK.format("1, 4.5")), "it has the value ' 4.5'; expected numbers"),
        (shape(MASK.format("6").replace('width="3"', 'width="0"')), "its mask is 2x0 pixels"),
        (shape(MASK.format("6").replace('width="3"', 'width="99999"')), "its RLE is for 6 pixels; expected 2x99999"),
    ],
)  # fmt: skip
def test_malformed_files_are_refused_with_their_name_and_shape(data, text, expected):
    error = message(data(text))
    assert re.search(expected, error), error
    assert "annotations.xml'" in error


def test_elements_that_are_nested_without_end_are_passed_over(data):
    nested = "<x>" * 50_000 + "</x>" * 50_000
    assert masks(data(shape(nested + POLYGON)))["a.png"].count_nonzero() == 16


def test_an_image_of_another_size_than_its_annotations_is_named(data, write):
    root = data()
    write("a.png", size=(16, 20))
    assert re.search(r"image '.*a\.png' has 16x20 pixels .* in '.*annotations\.xml' are for 8x10", message(root))


def test_damaged_files_are_refused_with_their_name_or_read(data, survives_damage):
    mask = '<mask label="leaf" rle="1, 1, 1, 3" left="2" top="3" width="3" height="2" z_order="0"/>'
    ellipse = '<ellipse label="stone" cx="5" cy="4" rx="3.5" ry="1.5" rotation="40"/>'
    root = data(document(image(POLYGON, mask, ellipse), image(name="b.png")))
    build = lambda: CvatSource(root, annotations="annotations.xml")  # noqa: E731
    assert survives_damage(build, root / "annotations.xml", named=root.name) > 200


def test_subsets_of_some_images_only_are_refused(data):
    root = data(document(image(POLYGON, others='subset="Test"'), image(name="b.png")))
    assert re.search(r"1 images of .* have no subset, such as '.*b\.png', but others have", message(root))
