import random
from pathlib import Path

import pytest

from finetune.data.files import ImageFile
from finetune.data.records import DataError, Record
from finetune.data.splitting.groups import Grouping, guess_groups, match_groups, shared_groups


def records(*paths: str) -> list[Record]:
    return [Record(Path(path).stem, ImageFile(Path("/data/photos", f"{path}.jpg"))) for path in paths]


def guessed(*paths: str) -> set[str] | None:
    found = guess_groups(records(*paths))
    return None if found is None else set(found.groups)


def numbered(pattern: str, groups: int = 6, images: int = 3) -> list[str]:
    return [pattern.format(group=group, image=image) for group in range(groups) for image in range(images)]


FIVE = {"a/p0", "a/p1", "a/p2", "b/q0", "b/q1"}


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (numbered("patient{group}_slice{image:03}"), {f"patient{n}" for n in range(6)}),
        (numbered("000{group}TP_00{image}690"), {f"000{n}TP" for n in range(6)}),
        (numbered("Seq{group}VD_f{image}"), {f"Seq{n}VD" for n in range(6)}),
        (numbered("TCGA_CS_49{group}_1996_{image}"), {f"TCGA_CS_49{n}" for n in range(6)}),
        (numbered("slide{group}_x{image}_y7"), {f"slide{n}" for n in range(6)}),
        (numbered("slide1_x{group}_y{image}"), {f"slide1_x{n}" for n in range(6)}),
        ([f"Image_{n:02}{side}" for n in range(14) for side in "LR"], {f"Image_{n:02}" for n in range(14)}),
        ([f"{n}_{side}" for n in range(5) for side in ("left", "right")], {f"{n}" for n in range(5)}),
        (numbered("cow{group}_jpg.rf.0a{image}f"), {f"cow{n}" for n in range(6)}),
        (numbered("p{group}/images/{image}"), {f"p{n}" for n in range(6)}),
        (numbered("train/p{group}/{image}") + numbered("Test/p{group}/9{image}"), {f"p{n}" for n in range(6)}),
        (numbered("north/p{group}/{image}"), {f"p{n}" for n in range(6)}),
        (numbered("a/p{group}/{image}", 3) + numbered("b/q{group}/9{image}", 2), FIVE),
    ],
)  # fmt: skip
def test_groups_are_seen_in_folders_and_names(names, groups):
    assert guessed(*names) == groups
    random.Random(0).shuffle(names)
    assert guessed(*names) == groups


@pytest.mark.parametrize(
    "names",
    [
        [f"img_{n:03}" for n in range(1, 121)],
        [f"{n}" for n in range(30)],
        [f"ISIC_00{n}" for n in range(30)],
        numbered("view_{group}_{image}", groups=4, images=9),  # too few
        numbered("Abyssinian_{group}{image}") + numbered("Bengal_{group}{image}"),  # classes
        [f"{year}_{n:06}" for year in range(2003, 2013) for n in range(9)],  # years
        [f"patient{n}_0" for n in range(30)],  # one image each
        [*numbered("patient{group}_{image}"), "overview"],  # no rule for all
        [*(f"{n}_{side}" for n in range(9) for side in ("left", "right")), "overview"],
        [f"patient{n}_{kind}" for n in range(9) for kind in ("flair", "overlay")],  # no number that runs
        [*numbered("p{group}_{image}", images=2), *(f"p7_{n}" for n in range(50))],  # one has most
        [f"view_{n}/images/view_{n}" for n in range(14)],  # a folder each
        ["train/0", "train/1", "val/2", "val/3"],
        [],
    ],
)
def test_no_groups_are_seen_in_names_that_count_or_that_no_rule_fits(names):
    assert guessed(*names) is None


def test_names_stand_in_for_images_without_files():
    class Drawn:
        paths = ()

    assert set(guess_groups([Record(name, Drawn()) for name in numbered("p{group}/{image}")]).groups) == {
        f"p{n}" for n in range(6)
    }


def test_groups_are_described_with_an_example():
    assert (
        Grouping(("a", "b", "", "b"), "of the same folder").describe() == "4 images in 2 groups of the same folder (b)"
    )


def test_a_pattern_finds_the_group_in_every_name():
    names = ["x/patient12_003", "patient1_3", "patient12_9"]
    assert match_groups(names, r"(patient\d+)_").groups == ("patient12", "patient1", "patient12")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (r"(p\d", r"data\.group=\(p\\d is no regular expression: missing \)"),
        (r"(?:p\d)", "has 0 capturing groups; expected one"),
        (r"(p)(\d)", r"has 2 capturing groups; .* Write the others as \(\?:"),
        (r"(p\d)_", r"finds no group in 2 of 3 names, such as q\. Change the pattern, or set data\.group=null"),
        (r"(\d*)", "finds no group in 3 of 3 names, such as p1_a"),
    ],
)
def test_a_pattern_that_does_not_fit_is_explained(pattern, message):
    with pytest.raises(DataError, match=message):
        match_groups(["p1_a", "q", ""], pattern)


def test_groups_on_both_sides_are_counted():
    rows = [
        ("train", "a"),
        ("train", "a"),
        ("val", "a"),
        ("train", "b"),
        ("val", "c"),
        ("test", "c"),
        ("train", ""),
        ("val", ""),
    ]
    found = shared_groups([Record(f"{n}", None, split=split, group=group) for n, (split, group) in enumerate(rows)])
    assert found == {"a": {"train": 2, "val": 1}}


def test_a_suffix_of_two_parts_is_none_of_the_name() -> None:
    scans = [
        Record(f"{n}_{side}", ImageFile(Path(f"/data/scans/{n}_{side}.nii.gz")))
        for n in range(5)
        for side in ("left", "right")
    ]
    found = guess_groups(scans)
    assert found is not None
    assert set(found.groups) == {f"{n}" for n in range(5)}
