"""A function called for many items, in processes and without."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from finetune.data import FolderSource, ImageFile, Record
from finetune.data.audit.examination import examine_all
from finetune.data.caching.facts import read_each
from finetune.data.caching.known_facts import reading_fact
from finetune.data.processes import FEWEST, each_result
from finetune.data.statistics import read_all, take_reading
from finetune.data.worker_errors import tracked_loader
from tests.samples import draw_folder

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(sys.platform != "linux", reason="processes are not forked"),
]


@dataclass
class Item:
    number: int

    @property
    def description(self) -> str:
        return f"item {self.number}"


ITEMS = [Item(number) for number in range(FEWEST)]


def place(item: Item) -> tuple[int, int, str]:
    """Return the number of an item, and where it was asked for."""
    return item.number, os.getpid(), threading.current_thread().name


def places(items: Sequence[Item], processes: int | None) -> tuple[set[int], set[str]]:
    numbers, pids, threads = zip(*each_result(place, items, processes), strict=True)
    assert list(numbers) == [item.number for item in items]
    return set(pids), set(threads)


def test_two_processes_return_all_results_in_order_and_end() -> None:
    others = set(multiprocessing.active_children())
    pids, _ = places(ITEMS, 2)
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert not set(multiprocessing.active_children()) - others


@pytest.mark.parametrize(("items", "processes"), [(ITEMS[:-1], 2), (ITEMS, 0)])
def test_few_items_or_none_of_processes_take_threads(items: Sequence[Item], processes: int) -> None:
    pids, threads = places(items, processes)
    assert pids == {os.getpid()}
    assert "MainThread" not in threads


def test_one_process_is_this_one_and_this_thread() -> None:
    assert places(ITEMS, 1) == ({os.getpid()}, {"MainThread"})


def test_a_process_of_a_pool_starts_no_others() -> None:
    pid, own = multiprocessing.get_context("fork").Pipe()
    process = multiprocessing.get_context("fork").Process(
        target=lambda: own.send((os.getpid(), places(ITEMS, 2)[0])), daemon=True
    )
    process.start()
    parent, pids = pid.recv()
    process.join()
    assert pids == {parent}


def test_a_process_that_dies_names_the_item() -> None:
    def dies(item: Item) -> None:
        if item.number == 70:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(RuntimeError, match=r"was ended by SIGKILL while it read item 70\. .* lower data\.num_workers"):
        list(each_result(dies, ITEMS, 2))


def test_an_error_is_raised_as_it_is() -> None:
    def fails(item: Item) -> None:
        if item.number == 70:
            raise ZeroDivisionError("plain")

    with pytest.raises(ZeroDivisionError, match="plain") as caught:
        list(each_result(fails, ITEMS, 2))
    assert caught.value.__notes__ == ["while reading item 70"]


def test_results_that_are_not_waited_for_end_their_processes() -> None:
    others = set(multiprocessing.active_children())  # a test that failed keeps its processes for its traceback
    results = each_result(place, ITEMS * 10, 2)
    next(results)
    assert len(set(multiprocessing.active_children()) - others) == 2
    del results
    assert not set(multiprocessing.active_children()) - others


@pytest.fixture
def forking(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the list to which the number of each start of processes is added; two items are enough for it."""
    started: list[int] = []

    def tracked(*arguments: object, num_workers: int, **options: object) -> object:
        started.append(num_workers)
        return tracked_loader(*arguments, num_workers=num_workers, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("finetune.data.processes.FEWEST", 2)
    monkeypatch.setattr("finetune.data.processes.tracked_loader", tracked)
    return started


def test_records_are_read_and_examined_as_without_processes(tmp_path: Path, forking: list[int]) -> None:
    records = FolderSource(draw_folder(tmp_path)).records()
    records[1].image.path.write_bytes(b"no image")  # type: ignore[attr-defined]  # a file
    alone, read = read_all(records, processes=1), read_all(records, processes=2)
    one, other = list(examine_all(records, processes=1)), list(examine_all(records, processes=2))
    assert forking == [2, 2]
    assert alone == read == [each.reading for each in one] == [each.reading for each in other]
    assert all(reading.record is record for reading, record in zip(read, records, strict=True))
    assert all(each.reading.record is record for each, record in zip(other, records, strict=True))
    assert [repr((each.image, each.mask)) for each in one] == [repr((each.image, each.mask)) for each in other]


class OwnFile(ImageFile):
    """An image of somebody else, who may hold an open file."""


OwnFile.__module__ = "elsewhere"


def test_images_of_classes_from_elsewhere_are_read_in_this_process(tmp_path: Path, forking: list[int]) -> None:
    records: list[Record] = FolderSource(draw_folder(tmp_path)).records()
    records[3] = replace(records[3], image=OwnFile(records[3].image.paths[0]))
    list(examine_all(records, processes=2))
    read_each(records, reading_fact(3), lambda record: take_reading(record, 3)[0], processes=2)
    assert not forking
