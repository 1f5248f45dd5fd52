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
