"""Lists of images that are left out."""

from pathlib import Path

import pytest

from finetune.data import DataError, Record
from finetune.data.files import ImageFile, MaskFile
from finetune.data.sources.synthetic import Drawing, DrawnImage, DrawnMask
from finetune.data.splitting.exclude import entry_for, read_exclusions, without_excluded

ROOT = Path("/data/photos")


def record(name: str) -> Record:
    return Record(name, ImageFile(ROOT / f"images/{name}.jpg"), MaskFile(ROOT / f"masks/{name}.png"))


RECORDS = [record(name) for name in ("a", "b", "c", "site/d")]


@pytest.mark.parametrize(
    "line",
    ["b", "images/b.jpg", "masks/b.png", "/data/photos/images/b.jpg", "./images/b.jpg", "images\\b.jpg", "  b  "],
)
def test_a_line_names_an_image_by_its_name_or_a_path(line: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"{line}\n\n")
    kept = without_excluded(RECORDS, tmp_path / "list.txt", ROOT)
    assert [each.name for each in kept] == ["a", "c", "site/d"]


def test_a_table_names_images_in_its_column_file(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text('kind,file\nblack,images/a.jpg\nwhite,"images/site/d.jpg"\nempty,images/a.jpg\n')
    assert read_exclusions(tmp_path / "list.csv") == ["images/a.jpg", "images/site/d.jpg"]
    assert [each.name for each in without_excluded(RECORDS, tmp_path / "list.csv", ROOT)] == ["b", "c"]


@pytest.mark.parametrize(
    "each",
    [*RECORDS, Record("x", DrawnImage(Drawing((16, 16), 0, "train", 0)), DrawnMask(Drawing((16, 16), 0, "train", 0)))],
)
@pytest.mark.parametrize("root", [None, ROOT, Path("/elsewhere")])
def test_what_a_record_is_named_by_excludes_it(each: Record, root: Path | None, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(entry_for(each, root))
    assert each not in without_excluded([*RECORDS, each, record("last")], tmp_path / "list.txt", root)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("list.txt", "b\nx\nimages/y.jpg\n", r"names 2 that no image or mask has: x, images/y\.jpg\. Correct the list"),
        ("list.txt", "a\nb\nc\nsite/d\n", r"names all 4 images"),
        ("list.csv", "name,kind\nb,x\n", r"has the columns name, kind; expected one named file"),
        ("list.csv", "", r"has the columns ; expected one named file"),
        ("none.txt", None, r"none\.txt' cannot be read: there is no such file\. Set data\.exclude"),
    ],
)
def test_a_list_that_does_not_fit_is_refused(name: str, content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        without_excluded(RECORDS, tmp_path / name, ROOT)
