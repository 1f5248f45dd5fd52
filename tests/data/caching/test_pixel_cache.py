"""Decoded images are kept exactly, and whatever is wrong with what is kept is decoded again."""

import os
import pickle
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from torch import Tensor

from finetune.data import SegmentationDataset, SyntheticSource
from finetune.data.augmentation.transforms import Augment
from finetune.data.caching.pixel_cache import PixelCache, disk_cache, memory_cache
from finetune.data.files import ClassMaskFiles, ImageFile, MaskFile
from finetune.data.module import SegmentationData
from finetune.data.records import DataError, Record


def sample(seed: int, classes: int = 0) -> tuple[Tensor, Tensor]:
    """Return an image and a target of a size of their own."""
    generator, height, width = torch.Generator().manual_seed(seed), 3 + seed, 5 + 2 * seed
    shape = (classes, height, width) if classes else (height, width)
    image, target = (torch.randint(0, 256, size, generator=generator) for size in ((3, height, width), shape))
    return image.byte(), target.byte()


def same(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> bool:
    return torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


def not_called() -> tuple[Tensor, Tensor]:
    pytest.fail("decoded")


@pytest.fixture(params=["ram", "disk"])
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> PixelCache:
    if request.param == "ram":
        return memory_cache()
    for name in "pr":
        (tmp_path / name).touch()
    return PixelCache(str(tmp_path / "p"), str(tmp_path / "r"))


@pytest.mark.parametrize("classes", [0, 1, 4])
def test_samples_of_any_size_come_back_in_any_order(cache: PixelCache, classes: int) -> None:
    expected = {index: sample(index, classes) for index in (7, 2, 5)}
    for index, pair in expected.items():
        assert same(cache.read(index, lambda pair=pair: pair), pair)
    for index in (2, 5, 7):
        assert same(cache.read(index, not_called), expected[index])
    assert same(cache.read(3, lambda: sample(3)), sample(3))  # a gap between those that are there


def test_what_is_read_may_be_changed(cache: PixelCache) -> None:
    cache.read(0, lambda: sample(0))
    for tensor in cache.read(0, not_called):
        tensor.zero_()
    assert same(cache.read(0, not_called), sample(0))


def fill(cache: PixelCache, start: int) -> None:
    for index in range(start, start + 40):
        cache.read(index, lambda index=index: sample(index % 7))


def test_processes_that_fill_it_at_once_read_what_the_others_decoded(cache: PixelCache) -> None:
    context = get_context("fork")
    processes = [context.Process(target=fill, args=(cache, start)) for start in (0, 20)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert all(same(cache.read(index, not_called), sample(index % 7)) for index in range(60))
    assert same(pickle.loads(pickle.dumps(cache)).read(59, not_called), sample(59 % 7))  # as sent to a new process


def test_a_process_appends_at_a_position_of_its_own(cache: PixelCache) -> None:
    cache.read(99, lambda: sample(0))
    before = os.lseek(cache._descriptors()[0], 0, os.SEEK_CUR)
    child = get_context("fork").Process(target=fill, args=(cache, 0))
    child.start()
    child.join(60)
    assert os.lseek(cache._descriptors()[0], 0, os.SEEK_CUR) == before  # each asks it where it has appended


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("damage", ["cut", "flip", "huge"])
def test_damage_is_decoded_again(cache: PixelCache, which: int, damage: str) -> None:
    for index in range(3):
        cache.read(index, lambda index=index: sample(index))
    with open(cache.paths[which], "r+b") as file:
        content = bytearray(file.read())
        if damage == "flip":
            content[5] ^= 1
        if damage == "huge":
            content[:28] = b"\xff" * 28
        file.seek(0)
        file.write(content)
        file.truncate(len(content) - 3 if damage == "cut" else len(content))
    assert all(same(cache.read(index, lambda index=index: sample(index)), sample(index)) for index in range(3))
    assert all(same(cache.read(index, not_called), sample(index)) for index in range(3))


def test_a_full_disk_leaves_it_as_it_is(cache: PixelCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    for _ in range(2):
        assert same(cache.read(0, lambda: sample(0)), sample(0))
    monkeypatch.setattr(os, "write", lambda file, content: len(content) - 1)  # not all of it
    assert same(cache.read(0, lambda: sample(0)), sample(0))
    monkeypatch.undo()
    assert same(cache.read(0, lambda: sample(1)), sample(1))


def test_memory_is_given_back_with_the_cache() -> None:
    before = len(os.listdir("/proc/self/fd"))
    cache = memory_cache()
    cache.read(0, lambda: sample(0))
    assert len(os.listdir("/proc/self/fd")) > before
    del cache
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("workers", [0, 2])
def test_a_training_with_the_cache_sees_the_same_batches_and_decodes_each_file_once(
    workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = SyntheticSource(6, 32).records()

    def batches(pixels: PixelCache | None) -> list[Tensor]:
        train = SegmentationDataset(records[:6], transform=Augment(16, brightness=0.3), seed=1)
        train.pixels = pixels
        loader = SegmentationData(train, train, batch_size=3, num_workers=workers).train_dataloader()
        return [batch[key] for _ in range(2) for batch in loader for key in ("image", "mask", "index")]

    cache = memory_cache()
    plain, cached = batches(None), batches(cache)
    assert all(map(torch.equal, plain, cached))
    for index, record in enumerate(records[:6]):
        assert same(cache.read(index, not_called), (record.image.read(), record.target.read()))


@pytest.fixture
def record(write) -> Record:
    return Record("a", ImageFile(write("a.png")), MaskFile(write("m.png", 1)), "train")


def test_a_later_run_finds_the_files_of_an_earlier_one(record: Record, tmp_path: Path) -> None:
    first = disk_cache([record], 3, tmp_path / "c")
    first.read(0, lambda: sample(0))
    assert "Made by finetune" in (tmp_path / "c" / "README.txt").read_text()
    assert same(disk_cache([replace(record, name="b", split="val")], 3, tmp_path / "c").read(0, not_called), sample(0))


def changed_files(record: Record) -> Record:
    os.utime(record.image.path, ns=(5, 5))
    return record


@pytest.mark.parametrize(
    "change",
    [
        lambda record: replace(record, target=MaskFile(record.target.path, (0, 1))),
        lambda record: replace(record, target=ClassMaskFiles(record.image.path, (record.target.path,))),
        lambda record: replace(record, image=ImageFile(record.target.path)),
        changed_files,
    ],
)
def test_whatever_changes_the_pixels_makes_another_file(change, record: Record, tmp_path: Path) -> None:
    first = disk_cache([record], 3, tmp_path / "c").paths
    assert disk_cache([record], 1, tmp_path / "c").paths != first
    assert disk_cache([record, record], 3, tmp_path / "c").paths != first
    assert disk_cache([change(record)], 3, tmp_path / "c").paths != first


def test_images_of_which_nobody_knows_when_they_change_are_not_kept_on_disk(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.cache=disk cannot tell when .*train.* Set data\.cache=ram"):
        disk_cache(SyntheticSource(1, 32).records(), 3, tmp_path)
