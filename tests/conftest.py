"""One thread a test process: the models are tiny, and more threads only wait for each other."""

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
