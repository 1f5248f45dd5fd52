"""A progress line, on terminals only."""

import sys

import pytest

from finetune.runs.progress import with_progress


@pytest.mark.parametrize("is_terminal", [False, True])
def test_all_items_come_in_their_order_and_a_line_is_on_terminals_only(
    is_terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    monkeypatch.setenv("TERM", "xterm")
    assert list(with_progress(iter("abc"), 3, "reading")) == ["a", "b", "c"]
    out, err = capsys.readouterr()
    assert out == ""
    assert ("reading" in err) == is_terminal
