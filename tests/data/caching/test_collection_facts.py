"""What is known of a whole collection is used only as long as nothing about it has changed."""

import os
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from finetune.data.caching.file_cache import FILE, KEY_OF_MANY, FileCache, Verify
from finetune.data.caching.fingerprint import fingerprints
from finetune.data.files import ImageFile, MaskFile
from finetune.data.records import Record
from finetune.data.statistics import inspect

OLD = 1_000_000_000_000_000_000  # ns; seconds to read by
Found = tuple[dict[str, object], dict[tuple[str, str], str]]


def age(*paths: Path, time: int = OLD) -> None:
    for path in paths:
        os.utime(path, ns=(time, time))


@pytest.fixture
def records(write) -> list[Record]:
    """Masks of class 0 only, of class 1 only, and so on, in files that are not compressed."""
    found = []
    for number in range(4):
        image = write(f"{number}.png", np.full((4, 4), number, np.uint8), size=(4, 4))
        mask = write(f"{number}.bmp", np.full((4, 4), number, np.uint8), size=(4, 4))
        age(image, mask, time=OLD + number)
        found.append(Record(f"{number}", ImageFile(image), MaskFile(mask), "val" if number == 3 else "train"))
    return found


def found(records: list[Record], cache: FileCache | None, ignore_index: int = 255) -> Found:
    statistics = inspect(records, 4, ignore_index, cache=cache)
    return {split: (s.pixels.tolist(), s.sizes) for split, s in statistics.items()}, fingerprints(records, cache)


def forbid_facts_of_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let only facts of whole collections make reading unnecessary, and no file be read."""
    for name in ("statistics.take_reading", "caching.fingerprint._fingerprint", "statistics.reading_problems"):
        monkeypatch.setattr(f"finetune.data.{name}", lambda *_: pytest.fail("looked at one by one"))


@pytest.mark.parametrize("verify", ["changed", "none"])
def test_an_unchanged_collection_is_not_looked_at_record_by_record(
    verify: Verify, records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh, folder = found(records, None), tmp_path / "c"
    assert found(records, FileCache(folder=folder)) == fresh
    statistics = inspect(records, 4)
    forbid_facts_of_files(monkeypatch)
    cache = FileCache(verify, folder)
    assert found(records, cache) == fresh
    assert cache.taken == 8  # the readings and the hashes of four
    known = inspect(records, 4, cache=cache)
    assert [replace(s, pixels=statistics[k].pixels) for k, s in known.items()] == list(statistics.values())
    assert {k: s.pixels.dtype for k, s in known.items()} == {k: s.pixels.dtype for k, s in statistics.items()}


def rewrite(records: list[Record]) -> None:
    """Give a mask a later time and another class, at the same size."""
    path = records[1].paths[1]
    path.write_bytes(records[2].paths[1].read_bytes())
    age(path, time=OLD + 9)


def rewrite_image(records: list[Record]) -> None:
    path = records[1].paths[0]
    path.write_bytes(path.read_bytes() + b" ")
    age(path, time=OLD + 1)


def swap_files(records: list[Record]) -> None:
    """Exchange two masks, each with its own time: the same sizes and times, of other files."""
    one, other = records[0].paths[1], records[1].paths[1]
    spare = one.with_name("spare")
    one.rename(spare), other.rename(one), spare.rename(other)


def remove(records: list[Record]) -> None:
    del records[1]


def swap_masks(records: list[Record]) -> None:
    """Pair two images of different splits with each other's mask."""
    first, last = records[0], records[3]
    records[0], records[3] = replace(first, target=last.target), replace(last, target=first.target)


def change_split(records: list[Record]) -> None:
    """Exchange the splits of two records, which keep their sizes."""
    records[1], records[3] = replace(records[1], split="val"), replace(records[3], split="train")


def change_settings(records: list[Record]) -> None:
    """Read one mask in another way, of which the others know nothing."""
    records[1] = replace(records[1], target=replace(records[1].target, mask_values=(1, 0, 2, 3)))


OF_FILES, OF_RECORDS = [rewrite, rewrite_image, swap_files], [remove, swap_masks, change_split, change_settings]


@pytest.mark.parametrize(
    ("change", "verify"),
    [(change, "changed") for change in (*OF_FILES, *OF_RECORDS)] + [(change, "none") for change in OF_RECORDS],
)
def test_a_change_of_anything_ends_the_use_of_what_was_known(
    change: Callable[[list[Record]], None], verify: Verify, records: list[Record], tmp_path: Path
) -> None:
    before = found(records, FileCache(folder=tmp_path / "c"))
    change(records)
    fresh = found(records, None)
    assert fresh != before
    assert found(records, FileCache(verify, tmp_path / "c")) == fresh


def test_no_records_have_no_statistics(tmp_path: Path) -> None:
    assert found([], FileCache(folder=tmp_path / "c")) == ({}, {})


def test_a_record_that_is_added_is_counted(records: list[Record], tmp_path: Path) -> None:
    found(records[:3], FileCache(folder=tmp_path / "c"))
    for verify in ("none", "changed"):
        assert found(records, FileCache(verify, tmp_path / "c")) == found(records, None)


def test_files_that_are_grouped_otherwise_into_records_have_other_hashes(records: list[Record], tmp_path: Path) -> None:
    one, other, third = (*records[0].paths, records[1].paths[0])
    pair_first = [Record("a", ImageFile(one), MaskFile(other)), Record("b", ImageFile(third))]
    pair_last = [Record("a", ImageFile(one)), Record("b", ImageFile(other), MaskFile(third))]
    for some in (pair_first, pair_last):  # the list of all files is the same
        assert fingerprints(some, FileCache(folder=tmp_path / "c")) == fingerprints(some)


def test_settings_of_the_data_have_statistics_of_their_own(records: list[Record], tmp_path: Path) -> None:
    found(records, FileCache(folder=tmp_path / "c"))
    assert found(records, FileCache(folder=tmp_path / "c"), ignore_index=1) == found(records, None, ignore_index=1)


def test_a_missing_file_is_an_error_although_all_was_known(records: list[Record], tmp_path: Path) -> None:
    found(records, FileCache(folder=tmp_path / "c"))
    records[1].paths[1].unlink()
    with pytest.raises(ValueError, match=r"cannot read|no such|does not exist"):
        inspect(records, 4, cache=FileCache(folder=tmp_path / "c"))


def test_full_reads_a_collection_again_and_keeps_what_it_finds(records: list[Record], tmp_path: Path) -> None:
    before = found(records, FileCache(folder=tmp_path / "c"))
    path = records[1].paths[1]
    path.write_bytes(records[2].paths[1].read_bytes())
    age(path, time=OLD + 1)  # the old time
    assert found(records, FileCache(folder=tmp_path / "c")) == before
    fresh = found(records, None)
    for verify in ("full", "changed", "none"):
        assert found(records, FileCache(verify, tmp_path / "c")) == fresh


@pytest.mark.parametrize(("verify", "time"), [("changed", 9), ("full", 1)])
def test_none_takes_what_was_last_read_of_a_file_with_any_others(
    verify: Verify, time: int, records: list[Record], tmp_path: Path
) -> None:
    found(records, FileCache(folder=tmp_path / "c"))
    rewrite(records)
    age(records[1].paths[1], time=OLD + time)
    found(records[:2], FileCache(verify, tmp_path / "c"))
    assert found(records, FileCache("none", tmp_path / "c")) == found(records, None)


def test_a_damaged_fact_of_a_collection_counts_as_nothing(records: list[Record], tmp_path: Path) -> None:
    fresh = found(records, FileCache(folder=tmp_path))
    for text in (
        *('{"train": []}', "{}", '"00"', f'"{" " * 64}"', f'"{"g" * 64}"'),
        '{"train": [[3, 0, 0, 0], [16, 16, 16, 0], [[4, 4, 3]]]}',  # without val
        '{"train": [[3, 0, 0, 0], [16, 16, 16, 0], [[4, 4, 2]]], "val": [[1, 0, 0, 0], [0, 0, 0, 16], [[4, 4, 1]]]}',
        '{"train": [[3, 0, 0, 0], [16, 16, 16], [[4, 4, 3]]], "val": [[1, 0, 0, 0], [0, 0, 0, 16], [[4, 4, 1]]]}',
        '{"train": [[3, 0, 0, 0], [16, 16, -1, 0], [[4, 4, 3]]], "val": [[1, 0, 0, 0], [0, 0, 0, 16], [[4, 4, 1]]]}',
    ):
        with sqlite3.connect(tmp_path / FILE) as store:
            store.execute("UPDATE facts SET value = ? WHERE length(key) = ?", (text, KEY_OF_MANY))
        store.close()
        assert found(records, FileCache(folder=tmp_path)) == fresh, text


def test_an_image_with_a_doubtful_turn_is_named_as_it_is_given_now(
    records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune.data.files.ImageFile.may_be_turned", lambda self: True)
    monkeypatch.chdir(records[0].paths[0].parent)
    inspect(records, 4, cache=FileCache(folder=tmp_path / "c"))
    named = [replace(record, image=ImageFile(Path(record.image.paths[0].name))) for record in records]
    assert inspect(named, 4, cache=FileCache(folder=tmp_path / "c"))["val"].turned == ("image '3.png'",)
