"""Layouts are recognized in small folders of drawn files."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.data.recognition.discovery import discover
from finetune.data.recognition.file_groups import Group, likely_pairs
from finetune.data.recognition.layouts import recognize_folders
from finetune.data.records import DataError
from finetune.data.sources.folder import FolderSource

NAMES = ["p1", "p2", "p3", "p10"]


def draw(root: Path, *patterns: str, names: list[str] = NAMES, kind: str = "image") -> None:
    """Write noise as images, or rectangles as masks, under each pattern with `{}` for the name."""
    random = np.random.default_rng(0)
    for pattern in patterns:
        for name in names:
            path = root / pattern.format(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.zeros((20, 24), np.uint8)
            pixels[5:15, 5:15] = 1
            noise = random.integers(0, 255, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(noise if kind == "image" else pixels).save(path)


def masks(root: Path, *patterns: str, names: list[str] = NAMES) -> None:
    draw(root, *patterns, names=names, kind="mask")


def only(root: Path) -> dict[str, object]:
    """Return the settings of the only way to read a folder, without format and root; all pairs must be right."""
    (found,) = recognize_folders(root)
    settings = {key: value for key, value in found.settings.items() if key not in ("format", "root")}
    assert found.settings["format"] == "folder"
    records = FolderSource(root, **settings).records()
    assert all(record.target is not None for record in records)
    return settings


@pytest.mark.parametrize(
    ("images", "labels", "settings"),
    [
        ("images/{}.jpg", "masks/{}.png", {"images": "images", "masks": "masks"}),
        ("photos/{}.png", "labels/{}.png", {"images": "photos", "masks": "labels"}),
        ("A/{}.jpg", "B/{}.png", {"images": "A", "masks": "B"}),
        ("x/{}.png", "y/{}_seg.png", {"images": "x", "masks": "y", "mask_suffix": "_seg"}),
        ("img/{}.png", "gt/gt_{}.png", {"images": "img", "masks": "gt", "mask_prefix": "gt_"}),
        ("{}.jpg", "{}.png", {"images": ".", "masks": "."}),
        ("{}.jpg", "{}_mask.png", {"images": ".", "masks": ".", "mask_suffix": "_mask"}),
        ("all/{}_image.png", "all/{}_label.png", {"image_suffix": "_image", "mask_suffix": "_label"}),
        ("im/{}_training.png", "gt/{}_manual1.png", {"image_suffix": "_training", "mask_suffix": "_manual1"}),
        ("data/im/{}.png", "data/gt/{}.png", {"images": "data/im", "masks": "data/gt"}),
        ("{}.png", "masks/{}.png", {"images": ".", "masks": "masks"}),
    ],
)
def test_flat_folders_of_any_name_and_rule(tmp_path, images, labels, settings):
    draw(tmp_path, images)
    masks(tmp_path, labels)
    assert settings.items() <= only(tmp_path).items()


@pytest.mark.parametrize(
    ("images", "labels", "settings"),
    [
        ("images/{s}/{{}}.jpg", "masks/{s}/{{}}.png", {"images": "images", "masks": "masks"}),
        ("{s}/images/{{}}.jpg", "{s}/masks/{{}}.png", {"images": "{split}/images", "masks": "{split}/masks"}),
        ("{s}/{{}}.jpg", "{s}/{{}}_mask.png", {"images": "{split}", "masks": "{split}", "mask_suffix": "_mask"}),
    ],
)
def test_split_folders_above_and_below(tmp_path, images, labels, settings):
    for split in ("training", "Test"):
        names = [f"{split}_{n}" for n in range(4)]
        draw(tmp_path, images.format(s=split), names=names)
        masks(tmp_path, labels.format(s=split), names=names)
    found = only(tmp_path)
    assert settings.items() <= found.items()
    records = FolderSource(tmp_path, **found).records()
    assert sorted((record.split, record.name.split("_")[0]) for record in records) == sorted(
        4 * [("train", "training"), ("test", "Test")]
    )


@pytest.mark.parametrize(
    ("images", "labels"),
    [("{}_images", "{}_masks"), ("data/images-{}", "data/gt-{}"), ("{}", "{}annot"), ("{}/images", "{}_labels")],
)
def test_the_split_may_be_in_the_names_of_the_folders(tmp_path, images, labels):
    for split in ("train", "valid", "test"):
        names = [f"{split}{n}" for n in range(4)]
        draw(tmp_path, f"{images.format(split)}/{{}}.png", names=names)
        masks(tmp_path, f"{labels.format(split)}/{{}}.png", names=names)
    (found,) = [way for way in recognize_folders(tmp_path) if not way.is_part]
    places = (found.settings["images"], found.settings["masks"])
    assert places == (images.format("{split}"), labels.format("{split}"))
    records = FolderSource(tmp_path, images=found.settings["images"], masks=found.settings["masks"]).records()
    assert [record.split for record in records] == ["train"] * 4 + ["val"] * 4 + ["test"] * 4
    assert all(record.target.path.stem == record.image.path.stem == record.name for record in records)


def test_folders_of_splits_are_read_alone_if_asked_for(tmp_path):
    for split in ("train", "val"):
        draw(tmp_path, f"{split}_images/{{}}.jpg")
        masks(tmp_path, f"{split}_masks/{{}}_mask.png")
    assert discover(tmp_path, {}).settings["images"] == "{split}_images"
    alone = discover(tmp_path, {"images": "train_images", "masks": "train_masks"}).settings
    assert (alone["images"], alone["mask_suffix"]) == ("train_images", "_mask")


def test_a_split_in_the_name_of_a_lone_folder_is_a_part_of_the_name_and_the_others_are_named(tmp_path):
    draw(tmp_path, "train_images/{}.jpg")
    draw(tmp_path, "test_images/{}.jpg", names=["q1", "q2", "q3", "q4"])
    masks(tmp_path, "train_masks/{}.png")
    assert only(tmp_path) == {"images": "train_images", "masks": "train_masks"}
    (found,) = recognize_folders(tmp_path)
    assert found.lines[0].endswith("; the 4 files in test_images/ are not read")


def test_sub_folders_with_equal_names_pair_by_their_paths(tmp_path):
    draw(tmp_path, "images/north/{}.jpg", "images/south/{}.jpg")
    masks(tmp_path, "masks/north/{}.png", "masks/south/{}.png")
    records = FolderSource(tmp_path, **only(tmp_path)).records()
    assert [record.name for record in records] == sorted(
        f"{site}/{name}" for site in ("north", "south") for name in NAMES
    )
    assert all(r.image.path.parent.name == r.target.path.parent.name for r in records)


def test_lists_of_names_are_the_split(tmp_path):
    draw(tmp_path, "JPEGImages/{}.jpg")
    masks(tmp_path, "SegmentationClass/{}.png", names=NAMES[:3])
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("p1\np2\n")
    (lists / "val.txt").write_text("JPEGImages/p3.jpg SegmentationClass/p3.png\n")
    found = only(tmp_path)
    assert found["lists"] == "ImageSets/Segmentation"
    records = FolderSource(tmp_path, **found).records()
    assert [(record.name, record.split) for record in records] == [("p1", "train"), ("p2", "train"), ("p3", "val")]


def test_lists_name_images_of_equal_names_by_their_folders_and_images_in_none_are_counted(tmp_path):
    draw(tmp_path, "images/north/{}.jpg", "images/south/{}.jpg")
    masks(tmp_path, "masks/north/{}.png", "masks/south/{}.png")
    (tmp_path / "train.txt").write_text("images/north/p1.jpg\nsouth/p2\nsouth/p3.jpg masks/south/p3.png\n")
    (tmp_path / "val.txt").write_text("south/p1.jpg\n")
    (found,) = recognize_folders(tmp_path)
    assert "; 4 of 8 images are in none and not used (data.lists; data.lists='' leaves them out)" in found.lines[-1]
    records = FolderSource(tmp_path, **only(tmp_path)).records()
    names = [(record.name, record.split) for record in records]
    assert names == [("north/p1", "train"), ("south/p1", "val"), ("south/p2", "train"), ("south/p3", "train")]
    (tmp_path / "val.txt").write_text("p10\n")  # of both folders
    records = FolderSource(tmp_path, images="images", masks="masks", lists=".").records()
    assert [record.name for record in records if record.split == "val"] == ["north/p10", "south/p10"]
    (tmp_path / "val.txt").write_text("p7\n")
    with pytest.raises(DataError, match=r"1 names in the lists in .* have no image: p7\. data\.lists='' splits"):
        FolderSource(tmp_path, images="images", masks="masks", lists=".").records()


def test_lists_are_left_out_if_asked_for(tmp_path):
    draw(tmp_path, "photos/{}.jpg")
    masks(tmp_path, "labels/{}.png")
    (tmp_path / "train.txt").write_text("p1\np2\n")
    assert discover(tmp_path, {}).settings["lists"] == "."
    found = discover(tmp_path, {"lists": ""})
    assert not any("lists" in line for line in found.lines)
    settings = {key: value for key, value in found.settings.items() if key != "format"}
    assert len(FolderSource(**settings).records()) == 4


def test_lists_that_name_other_images_are_not_passed_over_in_silence(tmp_path):
    draw(tmp_path, "images/{}.jpg")
    masks(tmp_path, "masks/{}.png")
    (tmp_path / "train.txt").write_text("q1\nq2\np1\n")
    (found,) = recognize_folders(tmp_path)
    assert "lists" not in found.settings
    assert found.lines[-1] == "the lists train.txt in ./ are not the split: 1 of their 3 names are images (data.lists)"


def test_every_rule_that_gives_each_image_a_mask_is_a_way_to_read(tmp_path):
    draw(tmp_path, "train/images/{}.jpg")
    masks(tmp_path, "train/masks/{}_cell.png", "train/masks/{}_edge.png")
    ways = recognize_folders(tmp_path)
    assert sorted(way.settings["mask_suffix"] for way in ways) == ["_cell", "_edge"]
    assert all("4 masks" in way.lines[0] and "4 other files in" in way.lines[0] for way in ways)


def test_a_rule_of_names_is_found_in_more_files_than_are_looked_at(tmp_path):
    names = [f"p{number}" for number in range(1100)]
    draw(tmp_path, "photos/{}.jpg", names=names[:6])
    masks(tmp_path, "gt/{}_gt.png", names=names[:6])
    for folder, name in (("photos", "{}.jpg"), ("gt", "{}_gt.png")):
        for other in names[6:]:
            (tmp_path / folder / name.format(other)).hardlink_to(tmp_path / folder / name.format("p1"))
    assert only(tmp_path)["mask_suffix"] == "_gt"


def test_two_folders_of_masks_are_two_ways_and_pictures_of_masks_are_none(tmp_path):
    draw(tmp_path, "images/{}.jpg", "overlays/{}.jpg")
    masks(tmp_path, "masks/{}.png", "annotations/{}.png")
    ways = recognize_folders(tmp_path)
    assert sorted(way.settings["masks"] for way in ways) == ["annotations", "masks"]
    assert all("which hold 2 gray values (0, 1)" in way.lines[0] for way in ways)


def test_folders_that_do_not_pair_are_no_layout(tmp_path):
    draw(tmp_path, "images/{}.jpg")
    masks(tmp_path, "masks/other_{}_x.png", names=["a", "b", "c"])
    draw(tmp_path / "empty", "a/{}.jpg", "b/{}.jpg")
    assert recognize_folders(tmp_path / "empty") == []
    assert recognize_folders(tmp_path / "nowhere") == []


def test_hidden_folders_are_left_out(tmp_path):
    draw(tmp_path, "images/{}.jpg", "images/.ipynb_checkpoints/{}.jpg")
    masks(tmp_path, "masks/{}.png", ".trash/{}.png")
    assert only(tmp_path) == {"images": "images", "masks": "masks"}


def test_of_many_folders_only_those_are_paired_that_hold_a_quarter_of_the_files():
    groups = [Group(f"images/{number}", [Path(str(number))]) for number in range(40)]
    masks = [Group("masks/all", [Path(str(number)) for number in range(20)]), Group("masks/few", [Path("1")])]
    found = list(likely_pairs(groups, masks, 61))
    assert [(images.pattern, second.pattern) for images, second in found] == [
        (f"images/{number}", "masks/all") for number in range(40)
    ]
