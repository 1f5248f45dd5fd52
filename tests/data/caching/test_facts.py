"""Files are read once, and again as soon as anything about them has changed."""

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from torch import Tensor

from finetune.data import statistics
from finetune.data.caching import known_facts
from finetune.data.caching.decoding_settings import decoding_settings
from finetune.data.caching.facts import Fact, read_each
from finetune.data.caching.file_cache import FILE, FileCache
from finetune.data.caching.fingerprint import fingerprints
from finetune.data.files import ClassMaskFiles, ImageFile, LayeredMaskFiles, MaskFile
from finetune.data.masks.contents import read_contents
from finetune.data.recognition.discovery import discover
from finetune.data.records import DataError, Record
from finetune.data.sources import SyntheticSource
from finetune.data.statistics import inspect

LENGTH: Fact[Path, int] = Fact("length", lambda path: (path,), lambda path: "", lambda n: n, lambda path, n: int(n))
OLD = 1_000_000_000_000_000_000  # ns; seconds to read by


class Counter:
    """Calls a function, and notes with what."""

    def __init__(self, function: Callable[..., object]) -> None:
        self.function = function
        self.calls: list[object] = []

    def __call__(self, *arguments: object) -> object:
        self.calls.append(arguments[0])
        return self.function(*arguments)


def age(*paths: Path, time: int = OLD) -> None:
    for path in paths:
        os.utime(path, ns=(time, time))


def lengths(paths: list[Path], cache: FileCache | None) -> tuple[list[int], int]:
    """Return the lengths of files, and how many of them were read."""
    read = Counter(lambda path: len(path.read_bytes()))
    return read_each(paths, LENGTH, read, cache), len(read.calls)


@pytest.fixture
def texts(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{n}.txt" for n in range(3)]
    for number, path in enumerate(paths):
        path.write_text("x" * (number + 1))
    age(*paths)
    return paths


def test_a_second_reading_reads_no_file(texts: list[Path], tmp_path: Path) -> None:
    assert lengths(texts, FileCache(folder=tmp_path / "c")) == ([1, 2, 3], 3)
    cache = FileCache(folder=tmp_path / "c")
    assert lengths(texts[::-1], cache) == ([3, 2, 1], 0)
    assert cache.taken == 3
    assert lengths(texts, None) == ([1, 2, 3], 3)
    assert lengths(texts, FileCache("full", tmp_path / "c")) == ([1, 2, 3], 3)


def test_a_relative_path_is_the_file_in_the_working_folder(
    texts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths(texts, FileCache(folder=tmp_path / "c"))
    monkeypatch.chdir(tmp_path)
    assert lengths([Path("1.txt")], FileCache(folder=tmp_path / "c")) == ([2], 0)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "1.txt").touch()
    monkeypatch.chdir(tmp_path / "sub")
    assert lengths([Path("1.txt")], FileCache(folder=tmp_path / "c")) == ([0], 1)


def test_a_file_of_another_size_or_time_is_read_again_and_others_are_not(texts: list[Path], tmp_path: Path) -> None:
    lengths(texts, FileCache(folder=tmp_path / "c"))
    texts[0].write_text("longer")
    age(texts[0])
    texts[1].write_text("yy")
    age(texts[1], time=OLD + 1)
    assert lengths(texts, FileCache("none", tmp_path / "c")) == ([1, 2, 3], 0)
    assert lengths(texts, FileCache(folder=tmp_path / "c")) == ([6, 2, 3], 2)
    assert lengths(texts, FileCache(folder=tmp_path / "c")) == ([6, 2, 3], 0)


def test_only_full_sees_a_file_of_the_same_size_with_its_old_time_restored(write, tmp_path: Path) -> None:
    image, mask = write("a.png", size=(4, 4)), write("a.bmp", size=(4, 4))  # not compressed
    age(image, mask)
    record = Record("a", ImageFile(image), MaskFile(mask), "train")
    before = inspect([record], 2, cache=FileCache(folder=tmp_path / "c"))["train"].pixels.tolist()
    size = mask.stat().st_size
    write("a.bmp", 1, size=(4, 4))
    assert mask.stat().st_size == size
    age(mask)
    seen = {v: inspect([record], 2, cache=FileCache(v, tmp_path / "c"))["train"].pixels for v in ("changed", "full")}
    assert (before, seen["changed"].tolist(), seen["full"].tolist()) == ([16, 0], [16, 0], [0, 16])
    assert inspect([record], 2, cache=FileCache(folder=tmp_path / "c"))["train"].pixels.tolist() == [0, 16]


def test_a_file_as_young_as_its_next_change_might_be_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "young.txt"
    path.write_text("x")
    for _ in range(2):
        assert lengths([path], FileCache(folder=tmp_path / "c")) == ([1], 1)


def test_a_file_that_changes_while_it_is_read_is_read_again(texts: list[Path], tmp_path: Path) -> None:
    def read(path: Path) -> int:
        length = len(path.read_bytes())
        path.write_text("changed meanwhile")
        age(path, time=OLD + 5)
        return length

    assert read_each(texts[:1], LENGTH, read, FileCache(folder=tmp_path / "c")) == [1]
    assert lengths(texts[:1], FileCache(folder=tmp_path / "c")) == ([17], 1)


def test_none_does_not_even_look_at_known_files_and_reads_new_ones(texts: list[Path], tmp_path: Path) -> None:
    lengths(texts[:2], FileCache(folder=tmp_path / "c"))
    texts[0].unlink()
    assert lengths(texts, FileCache("none", tmp_path / "c")) == ([1, 2, 3], 1)


def test_a_reading_that_is_cut_short_keeps_what_it_has(
    texts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune.data.caching.facts.AT_ONCE", 2)

    def read(path: Path) -> int:
        if path == texts[2]:
            raise KeyboardInterrupt
        return len(path.read_bytes())

    with pytest.raises(KeyboardInterrupt):
        read_each(texts, LENGTH, read, FileCache(folder=tmp_path / "c"), processes=1)
    assert lengths(texts, FileCache(folder=tmp_path / "c")) == ([1, 2, 3], 1)


def old_record(write, name: str, mask: np.ndarray, split: str = "train") -> Record:
    image, target = write(f"images/{name}.png", 9, size=mask.shape[-2:]), write(f"masks/{name}.png", mask)
    age(image, target)
    return Record(name, ImageFile(image), MaskFile(target), split)


@pytest.fixture
def records(write) -> list[Record]:
    """Class indices, with an image of another size than its mask and a value that is ignored."""
    rng = np.random.default_rng(0)
    masks = [rng.choice([0, 1, 2, 255], (6, 9)).astype(np.uint8) for _ in range(5)]
    found = [old_record(write, f"{n}", mask, "train" if n < 3 else "val") for n, mask in enumerate(masks)]
    image = write("images/large.png", 3, size=(12, 18))
    age(image)
    return [*found, replace(found[0], name="large", image=ImageFile(image))]


def same(a: dict[str, statistics.Statistics], b: dict[str, statistics.Statistics]) -> bool:
    plain = [
        {k: (s.images, s.pixels.tolist(), s.ignored, s.sizes, s.multilabel, s.resized) for k, s in x.items()}
        for x in (a, b)
    ]
    return plain[0] == plain[1]


def test_statistics_from_the_cache_are_those_of_the_files(
    records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fresh = inspect(records, 3)
    caplog.set_level("INFO")
    assert same(inspect(records, 3, cache=FileCache(folder=tmp_path / "c")), fresh)
    assert not caplog.records
    for name in ("ImageFile", "MaskFile"):
        monkeypatch.setattr(f"finetune.data.files.{name}.read", lambda *_: pytest.fail("decoded"))
    assert same(inspect(records, 3, cache=FileCache(folder=tmp_path / "c")), fresh)
    assert [record.message for record in caplog.records] == [
        "6 of 6 images and masks are unchanged since they were read; data.verify=full reads all again"
    ]
    with pytest.raises(DataError, match="label 2 is outside the 2 classes"):  # the same readings with other settings
        inspect(records, 2, cache=FileCache(folder=tmp_path / "c"))


def test_statistics_of_a_channel_per_class_come_from_the_cache_too(write, tmp_path: Path) -> None:
    paths = [write(f"{n}.png", np.array([[0, 1, n]], np.uint8), size=(1, 3)) for n in range(2)]
    age(*paths)
    record = Record("a", ImageFile(paths[0]), ClassMaskFiles(paths[0], (paths[0], None, paths[1])), "train")
    for reads in (3, 0):
        cache = FileCache(folder=tmp_path / "c")
        found = inspect([record], 3, cache=cache)["train"]
        assert (found.pixels.tolist(), found.multilabel, cache.taken) == ([1, 0, 2], True, reads == 0)


@pytest.mark.parametrize(
    "other",
    [
        {"channels": 1},
        {"target": lambda target: MaskFile(target.path, (0, 1, 2))},
        {"target": lambda target: MaskFile(target.path, None, 0)},
        {"target": lambda target: ClassMaskFiles(target.path, (target.path, None))},
        {"target": lambda target: ClassMaskFiles(target.path, (None, target.path))},
        {"target": lambda target: LayeredMaskFiles(target.path, ((target.path, 1),))},
        {"target": lambda target: LayeredMaskFiles(target.path, ((target.path, 2),))},
    ],
)
def test_settings_that_change_what_is_decoded_are_told_apart(
    other: dict[str, object], records: list[Record], tmp_path: Path
) -> None:
    plain = records[0]
    target = other.get("target", lambda target: target)(plain.target)
    changed, cache = replace(plain, target=target), FileCache(folder=tmp_path / "c")
    statistics.read_all([plain], cache=cache)
    statistics.read_all([changed], other.get("channels", 3), cache=cache)
    assert cache.taken == 0
    statistics.read_all([changed], other.get("channels", 3), cache=cache)
    assert cache.taken == 1


def test_a_file_that_failed_is_read_again(write, tmp_path: Path) -> None:
    good = old_record(write, "a", np.zeros((4, 4), np.uint8))
    for path in (good.image.path, good.target.path):
        content = path.read_bytes()
        path.write_bytes(b"no image" + b" " * (len(content) - 8))
        age(path)
        for _ in range(2):
            with pytest.raises(DataError, match="cannot read"):
                inspect([good], 2, cache=FileCache(folder=tmp_path / "c"))
        path.write_bytes(content)
        age(path)  # even with its old size and time
        assert inspect([good], 2, cache=FileCache(folder=tmp_path / "c"))["train"].pixels.tolist() == [16, 0]
        shutil.rmtree(tmp_path / "c")


def test_images_without_files_and_classes_of_others_are_always_read(records: list[Record], tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Mine(ImageFile):
        def read(self, channels: int = 3) -> Tensor:
            return torch.zeros(channels, 6, 9, dtype=torch.uint8)

    mine = replace(records[0], image=Mine(records[0].image.path))
    for _ in range(2):
        cache = FileCache(folder=tmp_path / "c")
        statistics.read_all([mine, *SyntheticSource(1, 32).records()], cache=cache)
        assert cache.taken == 0


def test_settings_are_text_only_for_plain_data() -> None:
    path = Path("a.png")
    assert decoding_settings(LayeredMaskFiles(path, ((path, 3),))) == "LayeredMaskFiles(Path,[[Path,3]])"
    assert decoding_settings(MaskFile(path, 3 + 4j)) is None
    first, other = (decoding_settings(MaskFile(path, np.arange(5000) + shift)) for shift in (0, 1))
    assert first not in (None, other)  # no value is left out
    assert decoding_settings(MaskFile(path, {"a": [1, None]})) == "MaskFile(Path,{'a':[1,None]},255,False,1)"


WRONG = [
    "",
    "null",
    "7",
    "[1,2]",
    "[" * 100_000,
    "[6,9,6,9,[0],[1,2],null]",
    "[6,9,6,9,[256],[1],null]",
    "[6,9,6,9,[0],[-1],null]",
    "[6,9,6,9,[0],[true],null]",
    "[6,-9,6,9,[0],[1],null]",
    '[6,9,6,9,[0],["1"],null]',
    "[6,9,6,9,[0],[54],7]",
    "[6,9,6,9,[0],[54],[1.5]]",
    "[6,9,6,9,[0],[1e300],null]",
    '{"a":1}',
    "[6,9,6,9,[0],[99999999999999999999],null]",
]


@pytest.mark.parametrize("text", WRONG)
def test_what_the_store_should_not_hold_counts_as_nothing(text: str, records: list[Record], tmp_path: Path) -> None:
    fresh = inspect(records, 3)
    inspect(records, 3, cache=FileCache(folder=tmp_path))
    replace_values(tmp_path, text)
    assert same(inspect(records, 3, cache=FileCache(folder=tmp_path)), fresh)
    replace_values(tmp_path, text)
    masks = [record.target for record in records]
    assert read_each(masks, known_facts.contents_fact, MaskFile.contents, FileCache(folder=tmp_path)) == [
        mask.contents() for mask in masks
    ]
    replace_values(tmp_path, text)
    assert fingerprints(records, FileCache(folder=tmp_path)) == fingerprints(records)


def replace_values(folder: Path, text: str) -> None:
    with sqlite3.connect(folder / FILE) as store:
        store.execute("UPDATE facts SET value = ?", (text,))
    store.close()


def test_hashes_of_files_come_from_the_cache(
    records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = fingerprints(records, FileCache(folder=tmp_path / "c"))
    assert fresh == fingerprints(records)
    monkeypatch.setattr(Path, "open", lambda *_: pytest.fail("read"))
    assert fingerprints(records, FileCache(folder=tmp_path / "c")) == fresh


@pytest.mark.parametrize(("mode", "suffix"), [("L", "png"), ("P", "png"), ("RGB", "png"), ("1", "png"), ("L", "jpg")])
def test_contents_of_masks_survive_the_cache(mode: str, suffix: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image = PILImage.fromarray(rng.integers(0, 3, (7, 5, 3), np.uint8)).convert(mode)
    image.save(tmp_path / f"a.{suffix}")
    fact, found = known_facts.contents_fact, read_contents(tmp_path / f"a.{suffix}")
    assert fact.from_json(tmp_path, json.loads(json.dumps(fact.to_json(found)))) == found


def test_a_folder_is_worked_out_without_decoding_a_second_time(
    records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (tmp_path / "images" / "large.png",):
        path.unlink()
    first = discover(tmp_path, {}, FileCache(folder=tmp_path / "c"))
    monkeypatch.setattr(MaskFile, "contents", lambda _: pytest.fail("decoded"))
    assert discover(tmp_path, {}, FileCache(folder=tmp_path / "c")) == first
