"""The columns by which the images of an evaluation are sliced."""

from pathlib import Path
from typing import Any, cast

import pytest

from finetune.builders.slices import slice_columns
from finetune.config.errors import ConfigError
from finetune.data import Record

RECORDS = [Record(name, cast("Any", None), group=group) for name, group in (("a", "x"), ("b", ""), ("c", "x"))]


def test_names_are_measured_or_come_from_the_records() -> None:
    columns = slice_columns(["brightness", "group"], RECORDS)
    assert columns == {"brightness": None, "group": ["x", "", "x"]}
    assert slice_columns("foreground", RECORDS) == {"foreground": None}
    assert slice_columns(None, RECORDS) == {}


def test_a_table_gives_each_image_its_values_and_may_have_images_of_other_splits(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text('\ufeffimage,weather,hour\nc,"sun,\nwind",9\nz,rain,8\na,rain\u2028,\n', encoding="utf-8")
    (tmp_path / "splits.csv").write_text("image,split\na,test\nb,test\nc,test\nz,train\n")
    columns = slice_columns(str(path), RECORDS, tmp_path / "splits.csv")
    assert columns == {"weather": ["rain\u2028", "", "sun,\nwind"], "hour": ["", "", "9"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "image,weather\na,sun\nA,sun\nd.png,rain\n",
            r"2 of its 3 images are not in the data: A, d\.png\..*such as 'a'",
        ),
        ("name,weather\na,sun\n", r"has the columns \['name', 'weather'\]; expected 'image' and others"),
        ("image\na\n", r"has the columns \['image'\]; expected 'image' and others"),
        ("", r"has the columns None; expected 'image' and others"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        slice_columns(str(path), RECORDS)


def test_names_that_are_unknown_and_groups_that_are_missing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected names or the path of a CSV file\. Did you mean brightness"):
        slice_columns(["brigthness"], RECORDS)
    with pytest.raises(ConfigError, match=r"slices=\[group\]: the images have no groups\. Leave group out"):
        slice_columns(["group"], [RECORDS[1]])
    with pytest.raises(ValueError, match=r"nowhere\.csv' cannot be read"):
        slice_columns(str(tmp_path / "nowhere.csv"), RECORDS)
