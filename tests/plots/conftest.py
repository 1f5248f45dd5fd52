"""Cheap figures."""

import pytest

from finetune.plots import figures


@pytest.fixture(autouse=True)
def _low_resolution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(figures.STYLE, "savefig.dpi", 72)
