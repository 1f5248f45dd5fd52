from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from finetune.data.files import ImageFile
from finetune.data.records import DataError, Record
from finetune.data.splits import assign_splits, cut_validation, read_splits, seeded_split, write_splits
from finetune.profiling.memory import peak, reset_peak, resident

IMAGE = ImageFile(Path("photo.jpg"))
NAMES = [f"image{n}" for n in range(100)]


def test_a_split_depends_on_the_set_of_names_and_the_seed_only():
    split = seeded_split(NAMES, seed=3)
    assert seeded_split(NAMES[::-1] + NAMES[:5], seed=3) == split
    assert seeded_split(NAMES, seed=4) != split
    assert Counter(split.values()) == {"train": 70, "val": 15, "test": 15}


def test_a_split_stays_the_same_between_versions():
    # by sha256sum: 0/c, 0/b, 0/a is the order of the digests
    assert seeded_split(["a", "b", "c"], val=0.3, test=0.3) == {"c": "test", "b": "val", "a": "train"}


def test_small_sets_keep_one_image_each_or_say_how_many_are_needed():
    assert sorted(seeded_split(["a", "b", "c"], val=0.01, test=0.01).values()) == ["test", "train", "val"]
    assert sorted(seeded_split(["a", "b"], test=0).values()) == ["train", "val"]
    with pytest.raises(DataError, match="at least 3 are needed"):
        seeded_split(["a", "b"])
    with pytest.raises(DataError, match="at least 2 are needed"):
        seeded_split(["a"], test=0)
    with pytest.raises(ValueError, match="sum below 1"):
        seeded_split(NAMES, val=0.5, test=0.5)


def test_written_splits_read_back(tmp_path):
    records = [Record(name, IMAGE, split=split) for name, split in seeded_split(NAMES).items()]
    write_splits(tmp_path / "splits.csv", records)
    assert (tmp_path / "splits.csv").read_text().startswith("image,split\nimage0,")
    assert read_splits(tmp_path / "splits.csv") == seeded_split(NAMES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,split\na,train\n", "expected the header image,split"),
        ("", "expected the header"),
        ("image,split\na,training\n", r"line 2 is \['a', 'training'\]; .* one of train, val, test"),
        ("image,split\na,train\na,val\n", "line 3 names 'a' a second time"),
        ("image,split\n" + "a" * 200_000 + ",val\n", "a line of more than 8,192 characters"),
        ('image,split\n"a\n' + "b\n" * 100_000 + '",val\n', "field larger than field limit"),
        ("image,split\n\udcff,val\n", "can't decode byte"),
        ("image,split\n\n" * 3, r"line 2 is \[\]; "),
    ],
)
def test_a_wrong_split_file_is_explained(tmp_path, text, message):
    (tmp_path / "splits.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=message):
        read_splits(tmp_path / "splits.csv")


def test_a_blank_last_line_and_spaces_in_a_split_file_are_left_out(tmp_path):
    (tmp_path / "splits.csv").write_text("image,split\na, train\n b ,val\n\n")
    assert read_splits(tmp_path / "splits.csv") == {"a": "train", "b": "val"}


@pytest.mark.parametrize("filler", [b"\0", b"\n", b",", b"a,val\n"])
def test_a_huge_split_file_is_refused_before_it_is_in_memory(tmp_path, filler):
    path = tmp_path / "splits.csv"
    path.write_bytes(b"image,split\n" + filler * (60_000_000 // len(filler)))
    before = resident() if reset_peak() else None
    with pytest.raises(DataError, match=r"splits\.csv"):
        read_splits(path)
    path.open("r+b").truncate(2**40)  # zeros that are nowhere on the disk
    with pytest.raises(DataError, match="it has 1,099,511,627,776 bytes"):
        read_splits(path)
    assert before is None or peak() - before < 50 * 2**20


def test_a_missing_split_file_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no split file"):
        read_splits(tmp_path / "splits.csv")


def test_splits_that_do_not_fit_the_images_name_both_sides():
    records = [Record("a", IMAGE), Record("b", IMAGE)]
    assert [record.split for record in assign_splits(records, {"a": "train", "b": "val"})] == ["train", "val"]
    with pytest.raises(DataError, match="1 images are not in the splits: b; 1 names in the splits have no image: c"):
        assign_splits(records, {"a": "train", "c": "val"})


def test_a_val_split_is_cut_from_train_and_from_nothing_else():
    splits = ["train"] * 20 + ["test"] * 9
    records = [Record(f"{number}", IMAGE, None, split) for number, split in enumerate(splits)]
    cut = cut_validation(records, val=0.2, seed=0)
    assert [record.split for record in cut].count("val") == 4
    assert [record.split for record in cut[20:]] == ["test"] * 9
    assert cut == cut_validation(records, val=0.2, seed=0)
    assert cut != cut_validation(records, val=0.2, seed=1)
    assert [replace(record, split="") for record in cut] == [replace(record, split="") for record in records]
