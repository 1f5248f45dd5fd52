from pathlib import Path

import pytest

from finetune.data.polygons.annotation_files import AnnotationError
from finetune.data.polygons.image_index import ImageIndex, folder_split


@pytest.fixture
def index(write):
    for name in ("a.png", "x/a.png", "x/b.png", "y/b.png", "train2017/c.jpg", "val2017/c.jpg", "x/y/d.png", "y/d.png"):
        write(name)
    return ImageIndex(write("a.png").parent)


@pytest.mark.parametrize(
    ("name", "folders", "split", "found"),
    [
        ("a.png", ["."], "", "a.png"),
        ("a.png", ["x", "."], "", "x/a.png"),
        ("x/a.png", ["."], "", "x/a.png"),
        ("x\\a.png", [], "", "x/a.png"),
        ("y/d.png", ["x"], "", "x/y/d.png"),
        ("./y/b.png", [], "", "y/b.png"),
        ("/home/me/y/b.png", ["y"], "", "y/b.png"),
        ("C:\\data\\y\\b.png", [], "", "y/b.png"),
        ("z/b.png", [], "", None),
        ("c.jpg", [], "val", "val2017/c.jpg"),
        ("c.jpg", [], "", None),
        ("/etc/passwd", [], "", None),
        ("../../etc/a.jpg", [], "", None),
        ("y/../a.png", [], "", None),
        ("", [], "", None),
        (".", [], "", None),
        ("\0", [], "", None),
        ("e" * 5000 + ".png", [], "", None),
    ],
)
def test_an_image_is_found_below_the_root_or_not_at_all(index, name, folders, split, found):
    near = [index.root / folder for folder in folders]
    if found is None:
        with pytest.raises(AnnotationError, match=r"there is no image|may be"):
            index.find(name, near, split)
    else:
        assert index.find(name, near, split) == index.root / found


def test_images_that_may_be_meant_are_named(index):
    with pytest.raises(AnnotationError, match=r"its image 'b\.png' may be x/b\.png, y/b\.png\. Rename the images"):
        index.find("b.png")


def test_an_image_with_a_stem_is_that_of_the_folder_or_the_only_one(index):
    assert index.with_stem("a", index.root / "x") == index.root / "x/a.png"
    assert index.with_stem("a", index.root) == index.root / "a.png"
    assert index.with_stem("e", index.root) is None
    with pytest.raises(AnnotationError, match="may be"):
        index.with_stem("b", index.root)


def test_accents_may_be_written_in_two_ways(write):
    path = write("x/bla\u0308tter.png")  # a letter and its dots, as files from a Mac have them
    index = ImageIndex(path.parent.parent)
    for name in ("bl\u00e4tter.png", "x/bl\u00e4tter.png", "/home/me/bla\u0308tter.png"):
        assert index.find(name, [index.root]) == path
    assert index.with_stem("bl\u00e4tter", index.root) == path


def test_folders_give_the_split():
    root = Path("data")
    names = {"a.png": "", "train/a.png": "train", "images/Valid/x/a.png": "val", "test_2/a.png": "test", "x/a.png": ""}
    assert {name: folder_split(root / name, root) for name in names} == names
