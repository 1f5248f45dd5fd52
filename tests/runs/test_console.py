"""The console: what it does with text that the terminal cannot show."""

import io
import logging
import sys

import pytest

from finetune.runs.console import Console


def test_letters_that_the_output_cannot_show_do_not_end_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding="ascii"))
    Console().emit(logging.LogRecord("finetune", logging.WARNING, "", 0, "class %s", ("Straße",), None))
    assert shown.getvalue() == b"warning: class Stra?e\n"
