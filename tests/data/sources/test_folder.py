import re
import shutil
from pathlib import Path

import pytest

from finetune.data.files import ImageFile, MaskFile
from finetune.data.records import DataError, Record
from finetune.data.sources.folder import FolderSource
from tests.samples import draw_folder


def files(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_a_flat_folder_pairs_by_name_whatever_the_suffixes(tmp_path):
    files(
        tmp_path, "images/b.JPG", "images/a.1.tiff", "masks/b.png", "masks/a.1.gif", "images/.c.jpg", "images/notes.txt"
    )
    images, masks = tmp_path / "images", tmp_path / "masks"
    assert FolderSource(tmp_path).records() == [
        Record("a.1", ImageFile(images / "a.1.tiff"), MaskFile(masks / "a.1.gif")),
        Record("b", ImageFile(images / "b.JPG"), MaskFile(masks / "b.png")),
    ]


def test_split_folders_are_the_split_and_valid_means_val(tmp_path):
    files(tmp_path, *(f"{kind}/{split}/x.png" for kind in ("images", "masks") for split in ("train", "valid", "test")))
    records = FolderSource(tmp_path).records()
    assert [(record.split, record.name) for record in records] == [("train", "x"), ("val", "x"), ("test", "x")]
    assert all(image.parent.name == mask.parent.name for image, mask in (record.paths for record in records))


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        (("Train", "Val", "Test"), ("Train", "Val", "Test")),
        (("training", "validation", "testing"), ("train", "val", "test")),
        (("TRAIN", "dev", "Testing"), ("train", "valid", "test")),
    ],
)
def test_split_folders_are_known_in_any_spelling_and_never_taken_for_one_flat_folder(tmp_path, images, masks):
    for number, (image, mask) in enumerate(zip(images, masks, strict=True)):
        files(tmp_path, f"images/{image}/{number}.png", f"masks/{mask}/{number}.png")
    records = FolderSource(tmp_path).records()
    assert [(record.split, record.name) for record in records] == [("train", "0"), ("val", "1"), ("test", "2")]
    assert all(record.target.path.parent.name == mask for record, mask in zip(records, masks, strict=True))


def test_train_and_test_alone_are_a_split(tmp_path):
    files(tmp_path, *(f"{kind}/{split}/x.png" for kind in ("images", "masks") for split in ("training", "testing")))
    assert [record.split for record in FolderSource(tmp_path).records()] == ["train", "test"]


def test_deeper_folders_are_searched(tmp_path):
    files(tmp_path, "images/site/day/x.png", "masks/site/x.png")
    assert [record.name for record in FolderSource(tmp_path).records()] == ["x"]


def test_a_mask_suffix_pairs_and_is_suggested(tmp_path):
    files(tmp_path, "images/1.png", "images/2.png", "masks/1_1stHO.png", "masks/2_1stHO.png")
    assert len(FolderSource(tmp_path, mask_suffix="_1stHO").records()) == 2
    with pytest.raises(DataError, match=re.escape("set data.mask_suffix=_1stHO.")):
        FolderSource(tmp_path).records()
    with pytest.raises(DataError, match=re.escape("set data.mask_suffix=_1stHO.")):
        FolderSource(tmp_path, mask_suffix="_mask").records()


def test_all_unpaired_files_are_counted_and_the_first_ten_named(tmp_path):
    files(tmp_path, *(f"images/i{n:02d}.png" for n in range(13)), "masks/lonely.png", "masks/i00.png")
    with pytest.raises(DataError) as error:
        FolderSource(tmp_path).records()
    message = str(error.value)
    assert "12 images without a mask" in message
    assert "i10.png and 2 more" in message
    assert "i11.png" not in message
    assert "1 masks without an image" in message
    assert "lonely.png" in message


def test_missing_folders_say_the_layout_and_what_is_there(tmp_path):
    files(tmp_path, "photos/a.jpg", "readme.md")
    with pytest.raises(
        DataError, match=r"(?s)no folder .*images.*no folder .*masks.*flat or with train/.*photos/, read"
    ):
        FolderSource(tmp_path).records()
    with pytest.raises(DataError, match=r"is not a folder; set data\.root"):
        FolderSource(tmp_path / "nowhere").records()


def test_an_empty_folder_is_an_error(tmp_path):
    files(tmp_path, "images/notes.txt", "masks/a.png")
    with pytest.raises(DataError, match="has no images"):
        FolderSource(tmp_path).records()


def test_two_images_of_one_name_are_an_error(tmp_path):
    files(tmp_path, "images/a.jpg", "images/sub/a.png", "masks/a.png")
    with pytest.raises(DataError, match=r"1 images have the name of another one.*a\.jpg' with .*a\.png"):
        FolderSource(tmp_path).records()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["images/test/a.png", "masks/test/a.png"], "no train/"),
        (["images/train/a.png", "images/val/b.png", "masks/train/a.png", "masks/b.png"], "there is no masks/val/"),
        (
            ["images/train/a.png", "images/extra/b.png", "masks/train/a.png", "masks/extra/b.png"],
            "images/ has extra/ next to the split folders train/",
        ),
        (
            ["images/train/a.png", "images/val/b.png", "masks/train/a.png", "masks/val/b.png", "images/c.png"],
            "1 files lie next to the split folders in images/: c.png",
        ),
        (
            [f"{kind}/{split}/a.png" for kind in ("images", "masks") for split in ("train", "val", "valid")],
            "val and valid, which all mean val",
        ),
    ],
)
def test_a_half_made_split_is_an_error(tmp_path, names, message):
    files(tmp_path, *names)
    with pytest.raises(DataError, match=message):
        FolderSource(tmp_path).records()


def test_mistakes_of_all_splits_come_together(tmp_path):
    files(tmp_path, "images/train/a.png", "masks/train/b.png", "images/val/c.png", "masks/val/d.png")
    with pytest.raises(DataError) as error:
        FolderSource(tmp_path).records()
    assert all(name in str(error.value) for name in ("a.png", "b.png", "c.png", "d.png"))


def test_linked_folders_are_read_like_others_and_hidden_ones_are_not(tmp_path):
    draw_folder(tmp_path / "disk", ["a", "b"])
    draw_folder(tmp_path / "data", ["c"])
    for name in ("images", "masks"):
        (tmp_path / "data" / name / "day").symlink_to(tmp_path / "disk" / name, target_is_directory=True)
        hidden = tmp_path / "data" / name / ".ipynb_checkpoints"
        hidden.mkdir()
        (hidden / "c.png").write_bytes((tmp_path / "data" / name / "c.png").read_bytes())
    records = FolderSource(tmp_path / "data", classes=3).records()
    assert [record.name for record in records] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 3, "mask_values": [0, 0, 255]}, r"has 0 more than once: which class is it"),
        ({"classes": 3, "mask_values": [0, [1, 0], 255]}, r"has 0 more than once"),
        ({"classes": {"road": "#FF0000", "car": "#ff0000"}}, r"has #ff0000 more than once"),
        ({"classes": {"road": "#000000", "car": 255}}, r"mixes colors and numbers"),
        ({"classes": 3, "mask_values": [0, 255]}, r"is for 2 classes, but data.classes says 3"),
        ({"classes": ["a", "b"], "mask_values": [0, 1, 2]}, r"is for 3 classes, but data.classes says 2"),
        ({"ignore_index": 2**24}, r"data.ignore_index=16777216: expected a value of the masks, from -32,768"),
    ],
)
def test_values_that_do_not_fit_the_classes_are_refused(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        FolderSource(tmp_path, **options)


def test_the_ignored_label_of_the_masks_is_not_a_class(tmp_path):
    draw_folder(tmp_path, ["a", "b"], values=(0, 1, 2, 3))
    source = FolderSource(tmp_path, classes=["soil", "crop", "weed"], mask_values=[1, 2, 3], ignore_index=0)
    assert source.ignore_index == 255
    assert sorted(source.records()[0].target.read().unique().tolist()) == [0, 1, 2, 255]


@pytest.mark.parametrize(
    ("mask", "options", "setting"),
    [
        ("mask_{}.png", {"mask_prefix": "mask_"}, "set data.mask_prefix=mask_."),
        ("gt_{}_L.png", {"mask_prefix": "gt_", "mask_suffix": "_L"}, "set data.mask_prefix=gt_ data.mask_suffix=_L."),
        ("{}_mask.png", {"mask_suffix": "_mask"}, "set data.mask_suffix=_mask."),
    ],
)
def test_a_rule_of_names_is_suggested_and_pairs(mask, options, setting, tmp_path):
    names = [f"p{number}" for number in range(1, 12)]
    files(tmp_path, *(f"images/{name}.png" for name in names), *(f"masks/{mask.format(name)}" for name in names))
    with pytest.raises(DataError) as error:
        FolderSource(tmp_path).records()
    assert setting in str(error.value)
    records = FolderSource(tmp_path, **options).records()
    assert all(mask.format(record.name) == record.target.path.name for record in records)


def test_several_masks_per_image_are_said(tmp_path):
    names = [f"p{number}" for number in range(6)]
    masks = [f"masks/{name}_object{n}.png" for name in names for n in range(3)]
    files(tmp_path, *(f"images/{name}.png" for name in names), *masks)
    with pytest.raises(DataError, match=r"about 3.0 masks each \(p0_object0.png, .*merge them into one"):
        FolderSource(tmp_path).records()


@pytest.mark.parametrize(("suffix", "text"), [(".json", "polygons"), (".xml", "polygons"), (".txt", "polygons")])
def test_annotations_that_are_not_read_are_named(suffix, text, tmp_path):
    files(tmp_path, *(f"images/p{n}.png" for n in range(4)), *(f"masks/p{n}{suffix}" for n in range(4)))
    with pytest.raises(DataError, match=rf"masks' has 4 {suffix} files, such as p0{suffix}: {text}"):
        FolderSource(tmp_path).records()


@pytest.mark.parametrize(("split_folder", "flat"), [("images", "masks"), ("masks", "images")])
def test_splits_that_only_images_or_masks_have_are_the_one_thing_that_is_said(tmp_path, split_folder, flat):
    names = [f"{split_folder}/{split}/{split}.png" for split in ("train", "val")]
    files(tmp_path, *names, f"{flat}/train.png", f"{flat}/val.png")
    with pytest.raises(DataError) as error:
        FolderSource(tmp_path).records()
    (line,) = str(error.value).splitlines()[1:]
    assert f"there is no {flat}/train/, {flat}/val/" in line


def test_a_split_without_masks_is_left_out_if_asked_for(tmp_path, caplog):
    draw_folder(tmp_path, [*(f"train/{n}" for n in "abc"), "test/d"])
    shutil.rmtree(tmp_path / "masks" / "test")
    with pytest.raises(DataError, match=r"no masks/test/, but images/test/\. .*: data\.skip_unpaired=true\."):
        FolderSource(tmp_path).records()
    assert [record.name for record in FolderSource(tmp_path, skip_unpaired=True).records()] == ["a", "b", "c"]
    assert "left out: the images of images/test/, as there is no masks/test/." in caplog.text


def test_masks_of_a_split_whose_images_have_another_name_are_not_passed_over(tmp_path):
    files(tmp_path, *(f"train/{kind}/a.png" for kind in ("images", "masks")), "val/imgs/b.png", "val/masks/b.png")
    for options in ({}, {"skip_unpaired": True}):
        with pytest.raises(DataError, match=r"no folder .*val.images"):
            FolderSource(tmp_path, images="{split}/images", masks="{split}/masks", **options).records()


@pytest.mark.parametrize("pattern", ["{split}/%s", "{split}_%s"])
def test_a_split_without_masks_is_named_where_it_is_above_or_in_the_name(pattern, tmp_path):
    images, masks = pattern % "images", pattern % "masks"
    for split in ("train", "val", "test"):
        for place in (images, *([masks] if split != "test" else [])):
            files(tmp_path, f"{place.replace('{split}', split)}/{split}.png")
    with pytest.raises(DataError) as error:
        FolderSource(tmp_path, images=images, masks=masks).records()
    missing, there = (place.replace("{split}", "test") for place in (masks, images))
    assert f"there is no {missing}/, but {there}/. Use the same" in str(error.value)
    records = FolderSource(tmp_path, images=images, masks=masks, skip_unpaired=True).records()
    assert [record.split for record in records] == ["train", "val"]


def test_masks_of_further_splits_are_not_read(tmp_path):
    files(tmp_path, *(f"images/{split}/x.png" for split in ("train", "val")))
    files(tmp_path, *(f"masks/{split}/x.png" for split in ("train", "val", "test")))
    assert [record.split for record in FolderSource(tmp_path).records()] == ["train", "val"]
