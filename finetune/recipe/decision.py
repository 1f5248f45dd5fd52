"""A value that was decided for the user, and why."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Decision:
    """A value of a setting, and why."""

    value: Any
    reason: str
