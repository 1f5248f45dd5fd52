"""The store of what is known of files: shared by processes, and never in the way of a run."""

import logging
import multiprocessing
import sqlite3
from pathlib import Path

import pytest

from finetune.data.caching import file_cache
from finetune.data.caching.file_cache import FILE, FileCache, cache_folder

FACTS = {b"a": ("1:2", "[1]"), b"b": ("3:4", "[2]")}


def save_many(folder: Path, process: int) -> None:
    for batch in range(20):
        FileCache(folder=folder).save({bytes([process, batch, n]): ("", f"{n}") for n in range(50)})


def test_what_is_saved_is_found_by_a_later_process_and_replaced(tmp_path: Path) -> None:
    FileCache(folder=tmp_path / "a" / "b").save(FACTS)
    assert "delete the folder" in (tmp_path / "a" / "b" / "README.txt").read_text()
    assert FileCache(folder=tmp_path / "a" / "b").find([b"a", b"c"]) == {b"a": ("1:2", "[1]")}
    FileCache(folder=tmp_path / "a" / "b").save({b"a": ("9:9", "[3]")})
    assert FileCache(folder=tmp_path / "a" / "b").find([b"a", b"b"]) == {**FACTS, b"a": ("9:9", "[3]")}


def test_more_keys_are_found_than_one_query_takes(tmp_path: Path) -> None:
    facts = {n.to_bytes(2, "big"): ("", str(n)) for n in range(2_000)}
    FileCache(folder=tmp_path).save(facts)
    assert FileCache(folder=tmp_path).find(list(facts)) == facts


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=save_many, args=(tmp_path, n)) for n in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    keys = [bytes([p, b, n]) for p in range(2) for b in range(20) for n in range(50)]
    assert len(FileCache(folder=tmp_path).find(keys)) == 2 * 20 * 50


@pytest.mark.parametrize("content", [b"no database at all" * 200, b"SQLite format 3\0" + b"\xff" * 4000])
def test_a_damaged_store_is_removed_and_said_once(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FILE).write_bytes(content)
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            (tmp_path / FILE).write_bytes(content)
            assert FileCache(folder=tmp_path).find([b"a"]) == {}
    assert len([r for r in caplog.records if str(tmp_path) in r.message]) == 1
    FileCache(folder=tmp_path).save(FACTS)
    assert FileCache(folder=tmp_path).find(list(FACTS)) == FACTS


def test_a_store_with_other_tables_is_not_used(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / FILE) as store:
        store.execute("CREATE TABLE facts (key, other)")
        store.execute("INSERT INTO facts VALUES (?, 1)", (b"a",))
    store.close()
    assert FileCache(folder=tmp_path).find([b"a"]) == {}


def test_a_store_that_another_process_holds_ends_its_use_without_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_cache, "PATIENCE", 0.01)
    FileCache(folder=tmp_path).save(FACTS)
    holder = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    cache = FileCache(folder=tmp_path)
    assert cache.find([b"a"]) == {}
    assert cache.folder is None
    cache.save({b"c": ("", "")})
    FileCache(folder=tmp_path).save({b"c": ("", "")})
    holder.close()
    assert FileCache(folder=tmp_path).find([b"a", b"c"]) == {b"a": ("1:2", "[1]")}


def test_a_folder_that_cannot_be_made_ends_the_use_without_an_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            cache = FileCache(folder=tmp_path / "file" / "cache")
            assert cache.find([b"a"]) == {}
            cache.save(FACTS)
            cache.save(FACTS)
    assert [r.message for r in caplog.records] == [
        f"what is known of the files is not kept for the next run: '{tmp_path}/file/cache': [Errno 20] Not a "
        f"directory: '{tmp_path}/file/cache'"
    ]


def test_a_store_that_may_only_be_read_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FileCache(folder=tmp_path).save(FACTS)
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda path, **options: connect(f"file:{path}?mode=ro", uri=True))
    cache = FileCache(folder=tmp_path)
    assert cache.find(list(FACTS)) == FACTS
    cache.save({b"c": ("", "")})
    assert cache.folder is None


def test_the_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("FINETUNE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "finetune"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "finetune"
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # no home, as for some system users
    assert cache_folder() is None
    cache = FileCache()
    cache.save(FACTS)
    assert cache.find(list(FACTS)) == {}
