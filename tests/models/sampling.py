"""Choice of the models that every test run tries; the others run with `-m slow`."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def slow_unless(quick: Collection[Any], cases: Iterable[Any]) -> list[Any]:
    """Return the cases as parameters of a test; those that are not in `quick` are marked slow."""
    cases = list(cases)
    assert not [case for case in quick if case not in cases]
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=[] if case in quick else [pytest.mark.slow])
        for case in cases
    ]
