import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from finetune.data import DataError, SegmentationDataset, inspect
from finetune.data.files import ClassMaskFiles, ImageFile, MaskFile
from finetune.data.records import Record
from finetune.data.sources.csv import CsvSource

Table = Callable[..., Path]


@pytest.fixture
def table(write) -> Table:
    """Write a table and the small files of one row in it, and return the folder."""

    def save(*lines: str, name: str = "labels.csv", encoding: str = "utf-8") -> Path:
        for index, file in enumerate(("a.png", "b.png", "m.png", "cat.png", "dog.png", "deep/a.png")):
            write(file, index)
        path = write("a.png").parent / name
        path.write_bytes("\n".join(lines).encode(encoding, "surrogateescape"))
        return path.parent

    return save


def message(root: Path, **options: object) -> str:
    source = CsvSource(root, **options)
    with pytest.raises(DataError) as error:
        source.records()
    return str(error.value)


def test_a_row_is_a_record_with_paths_relative_to_the_table(table):
    root = table("image,mask,split", "deep/a.png,m.png,train", "b.png,m.png,validation", "")
    source = CsvSource(root, classes=3, mask_values=[0, 2, 255], ignore_index=9)
    mask = MaskFile(root / "m.png", (0, 2, 255), 9)
    assert source.records() == [
        Record("deep/a.png", ImageFile(root / "deep/a.png"), mask, "train"),
        Record("b.png", ImageFile(root / "b.png"), mask, "val"),
    ]
    assert source.class_names == ("class_0", "class_1", "class_2")


def test_a_table_in_a_sub_folder_has_its_paths_next_to_it(table):
    root = table("image,mask", "a.png,m.png", name="deep/labels.csv").parent
    (root / "deep" / "m.png").write_bytes((root / "m.png").read_bytes())
    assert [record.paths for record in CsvSource(root, table="deep/labels.csv").records()] == [
        (root / "deep/a.png", root / "deep/m.png")
    ]


def test_absolute_paths_may_lead_anywhere(table, tmp_path_factory):
    root = table("image,mask", "a.png,m.png")
    other = tmp_path_factory.mktemp("other")
    (other / "labels.csv").write_text(f"image,mask\n{root / 'a.png'},{root / 'm.png'}\n")
    assert CsvSource(other).records()[0].paths == (root / "a.png", root / "m.png")


def test_further_columns_spaces_and_a_byte_order_mark_are_ignored(table):
    root = table("image,patient, mask ,split", "a.png ,17, m.png,", 'b.png,"x, y",m.png,', encoding="utf-8-sig")
    assert [(record.name, record.split) for record in CsvSource(root).records()] == [("a.png", ""), ("b.png", "")]


def test_a_column_per_class_makes_targets_with_a_channel_per_class(table, write):
    root = table("image,mask:cat,mask:dog", "a.png,cat.png,dog.png", "b.png,,dog.png", "m.png,,")
    write("cat.png", np.array([[0, 255], [7, 0]], dtype=np.uint8))
    write("dog.png", np.array([[0, 1], [0, 0]], dtype=np.uint8))
    write("m.png", size=(3, 5))
    source = CsvSource(root)
    both, dog, none = (record.target.read() for record in source.records())
    assert source.class_names == ("cat", "dog")
    assert both.dtype == torch.uint8
    assert both.tolist() == [[[0, 1], [1, 0]], [[0, 1], [0, 0]]]
    assert dog.tolist() == [[[0, 0], [0, 0]], [[0, 1], [0, 0]]]
    assert none.shape == (2, 3, 5)
    assert not none.any()
    assert source.records()[1].paths == (root / "b.png", root / "dog.png")


def test_classes_choose_the_order_of_the_class_columns(table):
    root = table("image,mask:cat,mask:dog", "a.png,cat.png,")
    source = CsvSource(root, classes=["dog", "cat"])
    assert source.class_names == ("dog", "cat")
    assert source.records()[0].target == ClassMaskFiles(root / "a.png", (None, root / "cat.png"))
    assert CsvSource(root, classes=2).class_names == ("cat", "dog")


@pytest.mark.parametrize("classes", [3, ["cat", "cow"], ["cat", "dog", "cow"]])
def test_classes_that_differ_from_the_columns_are_refused(table, classes):
    root = table("image,mask:cat,mask:dog", "a.png,cat.png,")
    with pytest.raises(DataError, match=r"data\.classes=.*are for the classes cat, dog\. Leave data\.classes out"):
        CsvSource(root, classes=classes).class_names  # noqa: B018


def test_a_table_can_be_counted_and_read_as_a_dataset(table, write):
    root = table("image,mask:cat,mask:dog,split", "a.png,cat.png,,train", "b.png,cat.png,dog.png,train")
    for name, value in (("cat.png", 3), ("dog.png", 0)):
        write(name, value)
    records = CsvSource(root).records()
    counts = inspect(records, classes=2)["train"]
    assert (counts.pixels.tolist(), counts.multilabel) == ([160, 0], True)
    sample = SegmentationDataset(records)[1]
    assert (sample["image"].shape, sample["mask"].shape) == ((3, 8, 10), (2, 8, 10))


def test_masks_of_one_image_that_differ_in_size_are_named(table, write):
    root = table("image,mask:cat,mask:dog", "a.png,cat.png,dog.png")
    write("dog.png", size=(4, 5))
    with pytest.raises(DataError, match=r"differ in size: '.*cat\.png' is 8x10 and '.*dog\.png' is 4x5"):
        CsvSource(root).records()[0].target.read()


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ([], "has no rows; expected a header image,mask"),
        (["image,mask"], "has no rows; expected"),
        (["image,mask", "", ","], "has no rows; expected"),
        (["picture,mask", "a.png,m.png"], "line 1 has the columns picture, mask; expected image,mask or"),
        (["image,label", "a.png,m.png"], "line 1 has the columns image, label; expected"),
        (["image,mask,mask:cat", "a.png,m.png,"], "line 1 has both mask and mask:cat"),
        (["image,mask:,mask:cat", "a.png,m.png,"], "line 1 has a column 'mask:' without the name of a class"),
        (["image,image,mask", "a.png,a.png,m.png"], "line 1 has a column twice: image, image, mask"),
        (["image,mask:cat,mask:cat", "a.png,,"], "line 1 has a column twice"),
        (["image,mask", "a.png", "b.png,m.png,x"], r"than its header \(2\) in line 2, 3\. Correct the rows"),
        (["image,mask", '"a.png,m.png'], "line 2 is not CSV: unexpected end of data"),
        (["image,mask", "a.png,m.png", "\udcff,m.png"], "line 3 is not UTF-8: invalid start byte. Save the table"),
        (["image,mask", "a.png,gone.png"], "line 2, column mask: no file '.*gone.png'"),
        (["image,mask:cat", "a.png,deep"], "line 2, column mask:cat: no file '.*deep'"),
        (["image,mask", "a.png,m.png", ",m.png"], "line 3, column image: expected a path, got an empty cell"),
        (["image,mask", "a.png,"], "line 2, column mask: expected a path, got an empty cell"),
        (
            ["image,mask", "../a.png,m.png"],
            r"line 2, column image: '\.\./a\.png' leads out of '.*write the path in",
        ),
        (["image,mask", "a.png,deep/../../m.png"], "line 2, column mask: '.*' leads out of"),
        (["image,mask,split", "a.png,m.png,holdout"], "line 2 has the split 'holdout'; expected train, val or test"),
        (["image,mask,split", "a.png,m.png,train", "b.png,m.png,"], "line 3 has the split ''; expected train"),
        (
            ["image,mask", "a.png,m.png", "deep/../a.png,m.png"],
            "line 3 names the image 'deep/../a.png' of line 2",
        ),
    ],
)
def test_a_malformed_table_is_refused_with_file_and_line(table, lines, text):
    error = message(table(*lines))
    assert re.search(text, error)
    assert "labels.csv'" in error


def test_the_mistakes_of_all_rows_come_together_and_the_first_twenty_are_listed(table):
    root = table("image,mask", *(f"gone{n}.png,m.png" for n in range(30)))
    text = message(root)
    assert "line 2, column image" in text
    assert "line 21, column image" in text
    assert "line 22" not in text
    assert "and 10 more problems" in text


def test_a_missing_table_says_what_to_set(tmp_path):
    error = message(tmp_path, table="names.csv")
    assert re.search(r"no table '.*names\.csv'. Set data\.root to its folder, and data\.table", error)


def test_settings_without_a_meaning_for_class_columns_are_refused(table):
    root = table("image,mask:cat", "a.png,")
    assert "data.mask_values has no effect" in message(root, mask_values=[0, 255])
    assert "data.ignore_index=1: masks of a class hold 0 and 1" in message(root, ignore_index=1)


def test_a_single_class_column_is_one_mask_per_image(table):
    source = CsvSource(table("image,mask:cat", "a.png,cat.png"))
    assert source.class_names == ("cat",)
    assert source.records()[0].target.read().shape[0] == 1


@pytest.mark.parametrize(
    ("column", "groups"),
    [
        ("group", ["x", ""]),
        ("Patient", ["x", ""]),
        ("subject_id", ["x", ""]),
        ("site,group", ["", ""]),
        ("site,patient", ["", ""]),
        ("note", ["", ""]),
    ],
)
def test_a_column_names_the_group_of_an_image(table, column, groups):
    end = "," * column.count(",")
    root = table(f"image,mask,{column}", f"a.png,m.png,x{end}", f"b.png,m.png,{end}")
    assert [record.group for record in CsvSource(root).records()] == groups


def test_the_cells_of_a_column_are_those_of_the_rows(table):
    source = CsvSource(table("image,mask,place", "a.png,m.png,x", "", "b.png,m.png, y "))
    assert source.column("place") == ("x", "y")
    with pytest.raises(DataError, match="has no column site; it has image, mask, place"):
        source.column("site")


def test_a_column_weighs_the_images(table):
    root = table("image,mask,weight", "a.png,m.png,2.5", "b.png,m.png,")
    assert [record.weight for record in CsvSource(root).records()] == [2.5, 1.0]


@pytest.mark.parametrize("weight", ["-1", "heavy", "nan", "inf"])
def test_a_weight_that_is_none_is_refused_with_its_line(table, weight):
    root = table("image,mask,weight", "a.png,m.png,1", f"b.png,m.png,{weight}")
    with pytest.raises(DataError, match=f"line 3 has the weight '{weight}'; expected a number of 0 or more"):
        CsvSource(root).records()


def test_a_column_without_a_name_is_no_group(table):
    root = table(",image,mask", "0,a.png,m.png", "1,b.png,m.png")  # as pandas writes it
    assert [record.group for record in CsvSource(root).records()] == ["", ""]


def test_the_name_of_a_class_in_a_header_may_follow_a_space(table):
    assert CsvSource(table("image,mask: cat", "a.png,cat.png")).class_names == ("cat",)
