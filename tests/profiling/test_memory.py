"""What the system says of this process's memory."""

import mmap
import sys
from pathlib import Path

import pytest

from finetune.profiling import memory

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")


@linux
def test_what_is_held_and_the_most_that_was_grow_with_new_pages() -> None:
    # pages of their own: an allocator may give a tensor those that earlier tests have left it, and nothing would grow
    assert memory.reset_peak()
    before = memory.resident() or 0
    with mmap.mmap(-1, 50_000_000) as pages:
        for _ in range(50):
            pages.write(b"1" * 1_000_000)
        held = memory.resident() or 0
    assert 40e6 < held - before < 70e6
    assert (memory.peak() or 0) - before > 40e6
    assert before < (memory.available() or 0) + held


def test_where_the_system_does_not_tell_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "PROCESS", tmp_path / "none")
    monkeypatch.setattr(memory, "SYSTEM", tmp_path / "none")
    assert not memory.reset_peak()
    assert (memory.resident(), memory.peak(), memory.available()) == (None, None, None)
