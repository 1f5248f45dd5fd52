"""What the system says of this process's memory."""

import sys
from pathlib import Path

import pytest
import torch

from finetune.tuning import memory

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")


@linux
def test_what_is_held_and_the_most_that_was_grow_with_a_tensor() -> None:
    assert memory.reset_peak()
    before = memory.resident() or 0
    kept = torch.ones(50_000_000, dtype=torch.uint8)
    held = memory.resident() or 0
    assert 40e6 < held - before < 70e6
    del kept
    assert (memory.peak() or 0) - before > 40e6
    assert before < (memory.available() or 0) + held


def test_where_the_system_does_not_tell_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "PROCESS", tmp_path / "none")
    monkeypatch.setattr(memory, "SYSTEM", tmp_path / "none")
    assert not memory.reset_peak()
    assert (memory.resident(), memory.peak(), memory.available()) == (None, None, None)
