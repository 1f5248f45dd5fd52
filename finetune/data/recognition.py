"""What a folder was recognized as."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Recognized:
    """One way to read a folder, as a source found it by looking at the files.

    Attributes:
        settings: of `data`, with which the source reads the folder; `format` and `root` are among them.
        lines: what was seen and why, with the setting that would change it; one conclusion each.
    """

    settings: Mapping[str, Any]
    lines: tuple[str, ...] = ()
