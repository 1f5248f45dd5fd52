"""Memory of this process as the system reports it."""

import mmap
import sys
from pathlib import Path

import pytest

from finetune.profiling import memory

linux = pytest.mark.skipif(sys.platform != "linux", reason="only known on Linux")


@linux
def test_resident_and_peak_memory_grow_with_new_pages() -> None:
    # mmap and not a tensor: an allocator may reuse pages freed by earlier tests, and nothing would grow
    assert memory.reset_peak()
    before = memory.resident() or 0
    with mmap.mmap(-1, 50_000_000) as pages:
        for _ in range(50):
            pages.write(b"1" * 1_000_000)
        resident = memory.resident() or 0
    assert 40e6 < resident - before < 70e6
    assert (memory.peak() or 0) - before > 40e6
    assert before < (memory.available() or 0) + resident


def test_all_values_are_none_if_the_system_does_not_report_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "PROCESS", tmp_path / "none")
    monkeypatch.setattr(memory, "SYSTEM", tmp_path / "none")
    assert not memory.reset_peak()
    assert (memory.resident(), memory.peak(), memory.available()) == (None, None, None)


@pytest.mark.parametrize(
    ("groups", "files", "free"),
    [
        ("0::/", {"memory.max": "1000000\n", "memory.current": "700000\n"}, 300_000),
        ("0::/a/b", {"a/memory.max": "1000000", "a/memory.current": "900000", "a/b/memory.max": "max"}, 100_000),
        ("0::/outside", {"memory.max": "500", "memory.current": "900"}, 0),
        ("4:memory:/a", {"memory/memory.limit_in_bytes": "800", "memory/memory.usage_in_bytes": "300"}, 500),
        ("0::/", {}, 4096 * 1024),
    ],
    ids=["container", "nested", "path of the host", "version 1", "no limit"],
)
def test_the_limit_of_a_container_is_the_memory_that_is_available(
    groups: str, files: dict[str, str], free: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "meminfo").write_text("MemAvailable:       4096 kB\n")
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "cgroup").write_text(f"3:cpuset:/\n{groups}\n")
    for name, text in files.items():
        folder = (tmp_path / "groups" / name).parent
        folder.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(text)
        (folder / "memory.stat").write_text("anon 5\n")
    for name, path in {"PROCESS": "self", "SYSTEM": "meminfo", "GROUPS": "groups"}.items():
        monkeypatch.setattr(memory, name, tmp_path / path)
    assert memory.available() == free


def test_files_that_the_system_may_drop_are_available(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meminfo").write_text("MemAvailable:       4096 kB\n")
    (tmp_path / "cgroup").write_text("0::/\n")
    for name, text in {"max": "1000", "current": "900", "stat": "file 700\ninactive_file 400\n"}.items():
        (tmp_path / f"memory.{name}").write_text(text)
    for name, path in {"PROCESS": tmp_path, "SYSTEM": tmp_path / "meminfo", "GROUPS": tmp_path}.items():
        monkeypatch.setattr(memory, name, path)
    assert memory.available() == 500
