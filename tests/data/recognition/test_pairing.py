from pathlib import Path

import pytest

from finetune.data.recognition.name_patterns import NamePattern
from finetune.data.recognition.pairing import Affixes, likely_affixes, pair
from finetune.data.records import DataError
from finetune.data.splitting.split_lists import list_names, read_lists

PLAIN = (Affixes(), Affixes())


def paths(folder: str, *names: str) -> list[Path]:
    return [Path(folder, name) for name in names]


@pytest.mark.parametrize(
    ("images", "masks", "expected"),
    [
        (("1.png", "2.png"), ("1_gt.png", "2_gt.png"), (Affixes(), Affixes("", "_gt"))),
        (("1.png", "2.png"), ("m-1.png", "m-2.png"), (Affixes(), Affixes("m-", ""))),
        (("1.png", "10.png"), ("1_a.png", "10_a.png"), (Affixes(), Affixes("", "_a"))),
        (
            ("1_image.png", "12_image.png"),
            ("1_label.png", "12_label.png"),
            (Affixes("", "_image"), Affixes("", "_label")),
        ),
        (("img_1.png", "img_2.png"), ("seg_1.png", "seg_2.png"), (Affixes("img_", ""), Affixes("seg_", ""))),
    ],
)
def test_the_rule_of_names_is_found(images, masks, expected):
    found = likely_affixes(paths("i", *images), paths("m", *masks))
    assert found == (expected, 2)
    pairs = pair(paths("i", *images), paths("m", *masks), (Path("i"), Path("m")), expected)
    assert sorted(mask.name for _, _, mask in pairs.pairs) == sorted(masks)


def test_no_rule_is_found_for_unrelated_names():
    assert likely_affixes(paths("i", "a.png", "b.png"), paths("m", "x.png", "y.png", "z.png")) is None


def test_masks_without_an_image_and_images_without_a_mask_are_kept_apart():
    pairs = pair(paths("i", "a.png", "b.png"), paths("m", "b.png", "c.png"), (Path("i"), Path("m")), PLAIN)
    assert [(name, mask) for name, _, mask in pairs.pairs] == [("a", None), ("b", Path("m/b.png"))]
    assert pairs.without_image == [Path("m/c.png")]


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("masks/{class}/{stem}", "masks/leaf/a", ("a", "leaf")),
        ("masks/{class}/{stem}", "other/leaf/a", None),
        ("masks/{class}/{stem}", "masks/leaf/unknown", None),
        ("masks/{stem}_{class}", "masks/a_1_leaf", ("a_1", "leaf")),
        ("masks/{stem}_{class}", "masks/a_leaf_x", ("a", "leaf_x")),
        ("{stem}/masks/{object}", "a/masks/0001", ("a", "0001")),
        ("{stem}/masks/{object}", "a/masks/deep/0001", None),
    ],
)
def test_patterns_tell_the_image_and_the_class(pattern, path, expected):
    assert NamePattern(pattern).match(path, {"a", "a_1"}) == expected


def test_lists_name_images_by_stem_path_or_columns(tmp_path):
    (tmp_path / "train.txt").write_text("a\n/images/b.jpg /masks/b.png\n\nx\\c.png\n1.25\ne.nii.gz\n")
    (tmp_path / "validation.txt").write_text("d")
    assert list_names(tmp_path / "train.txt") == ["a", "b", "c", "1.25", "e"]
    assert read_lists(tmp_path)["d"] == "val"


def test_lists_name_images_that_have_spaces_and_dots_in_their_names(tmp_path):
    (tmp_path / "train.txt").write_text("frame 1\nimages/frame 2.jpg\na.7_image\nx.jpg 1\nx.jpg masks/frame 1.png\n")
    stems = {"frame 1", "frame 2", "a.7_image", "x"}
    assert list_names(tmp_path / "train.txt", stems) == ["frame 1", "frame 2", "a.7_image", "x", "x"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"val.txt": b"a"}, "no train.txt"),
        (
            {"train.txt": b"a", "val.txt": b"b", "valid.txt": b"c"},
            r"val\.txt' and 'valid\.txt' both mean val\. Keep one",
        ),
        ({"train.txt": b"a\nb", "test.txt": b"b"}, r"1 names are in two lists of .*: b \(train and test\)"),
        ({"train.txt": b"\xff\xfe"}, r"train\.txt' is not UTF-8"),
    ],
)
def test_lists_that_make_no_split_are_refused(tmp_path, files, message):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_lists(tmp_path)


def test_names_that_differ_only_in_how_accents_are_kept_are_equal(tmp_path):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    found = pair([tmp_path / f"{composed}.jpg"], [tmp_path / f"{decomposed}.png"], (tmp_path, tmp_path), PLAIN)
    assert found.pairs == [(composed, tmp_path / f"{composed}.jpg", tmp_path / f"{decomposed}.png")]
    (tmp_path / "train.txt").write_text(f"{decomposed}.jpg\n")
    assert list_names(tmp_path / "train.txt", {composed}) == [composed]
