from pathlib import Path

import pytest

from finetune.data.files import ImageFile
from finetune.data.records import DataError, Record
from finetune.data.splitting.split_file import (
    assign_splits,
    read_splits,
    read_training_images,
    restore_splits,
    write_splits,
)
from finetune.data.splitting.splits import seeded_split
from finetune.profiling.memory import peak, reset_peak, resident

IMAGE = ImageFile(Path("photo.jpg"))
NAMES = [f"image{n}" for n in range(100)]


def records(*names: str) -> list[Record]:
    return [Record(name, IMAGE) for name in names]


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
        ("image,split\na,train,p1\n", r"line 2 is \['a', 'train', 'p1'\]; "),
        ("image,split,patient\na,train,p1\n", r"starts with \['image', 'split', 'patient'\]; expected the header"),
        ("image,split,group\na,train\n", r"line 2 is \['a', 'train'\]; "),
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
    splits = read_splits(tmp_path / "splits.csv")
    assert [record.split for record in assign_splits(records("b", "a"), splits)] == ["val", "train"]


def test_names_that_end_with_a_space_are_read_as_they_were_written(tmp_path):
    split = assign_splits(records("a ", "a"), {"a ": "train", "a": "val"})
    write_splits(tmp_path / "splits.csv", split)
    assert assign_splits(records("a ", "a"), read_splits(tmp_path / "splits.csv")) == split


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


def test_groups_are_a_third_column_that_reading_leaves_out(tmp_path):
    path = tmp_path / "splits.csv"
    records = [
        Record("b", IMAGE, None, "val", "p2"),
        Record("a", IMAGE, None, "train", ""),
        Record("c", IMAGE, None, "test", "p3"),
    ]
    write_splits(path, records)
    assert path.read_text() == "image,split,group\na,train,\nb,val,p2\nc,test,p3\n"
    assert read_splits(path) == {"a": "train", "b": "val", "c": "test"}


def test_a_split_made_from_a_given_one_is_restored_even_where_names_repeat(tmp_path):
    path = tmp_path / "splits.csv"
    given = [Record(f"{n}", IMAGE, None, split) for split in ("train", "test") for n in range(3)]
    path.write_text("image,split\n0,test\n0,val\n1,test\n1,train\n2,test\n2,train\n")
    assert [record.split for record in restore_splits(given, path)] == ["val", "train", "train", "test", "test", "test"]
    more = [*given, Record("9", IMAGE, None, "test")]
    assert [record.split for record in restore_splits(more, path)][3:] == ["test"] * 4
    assert [record.split for record in restore_splits(given[:-1], path)][3:] == ["test"] * 2
    with pytest.raises(DataError, match="1 images are not in the splits: 9"):
        restore_splits([*given, Record("9", IMAGE, None, "train")], path)
    path.write_text("image,split\n0,train\n0,val\n")
    with pytest.raises(DataError, match="does not say which images called 0 are in which split"):
        restore_splits(given, path)


def test_a_test_split_that_was_cut_from_train_is_restored(tmp_path):
    path = tmp_path / "splits.csv"
    given = [Record(name, IMAGE, None, "train") for name in "abc"] + [Record("d", IMAGE, None, "val")]
    cut = assign_splits(given, {"a": "train", "b": "test", "c": "train", "d": "val"})
    write_splits(path, cut)
    assert restore_splits(given, path) == cut


def test_a_test_split_that_was_cut_is_restored_where_names_of_train_and_val_repeat(tmp_path):
    path = tmp_path / "splits.csv"
    given = [*(Record(name, IMAGE, None, "train") for name in "abc"), Record("a", IMAGE, None, "val")]
    for test in "abc":
        cut = [r.with_split("test") if (r.name, r.split) == (test, "train") else r for r in given]
        write_splits(path, cut)
        assert restore_splits(given, path) == cut
        assert restore_splits(given[::-1], path) == cut[::-1]


def test_names_of_the_evaluated_split_are_other_images_than_those_trained_on(tmp_path):
    (tmp_path / "splits.csv").write_text("image,split\na,train\na,val\nb,train\nb,test\nc,train\nd,val\n")
    assert read_training_images(tmp_path / "splits.csv", "test") == {"a", "c"}
    assert read_training_images(tmp_path / "splits.csv", "val") == {"b", "c"}


def test_a_split_of_images_without_one_is_restored_from_the_file(tmp_path):
    path = tmp_path / "splits.csv"
    path.write_text("image,split\na,test\nb,val\n")
    assert [record.split for record in restore_splits([Record("b", IMAGE), Record("a", IMAGE)], path)] == [
        "val",
        "test",
    ]
