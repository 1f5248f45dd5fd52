"""The settings that decide how the files of an image or a target are decoded."""

import hashlib
from dataclasses import fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from finetune.data.records import Record

PLAIN = (str, int, float, bool, type(None))
PACKAGE = f"{__name__.partition('.')[0]}."


def record_settings(record: Record, channels: int) -> str | None:
    """Return everything but files that decides how a record is decoded; None if that cannot be told."""
    image, target = decoding_settings(record.image), decoding_settings(record.target)
    return None if image is None or target is None else f"{channels} {image} {target}"


def decoding_settings(value: object) -> str | None:
    """Return the settings of an image or a target as text; None if it is not a class of this package.

    The code of other classes may change from one run to the next, and they may hold anything.

    >>> from finetune.data.files import MaskFile
    >>> decoding_settings(MaskFile(Path("a.png"), [0, 255])), decoding_settings(3 + 4j)
    ('MaskFile(Path,[0,255],255,False)', None)
    """
    try:
        return _text(value)
    except TypeError:
        return None


def _text(value: object) -> str:
    """Return plain values, and data classes of this package, as text that is another one for another value.

    Raises:
        TypeError: the value is something else.
    """
    if isinstance(value, Path):  # files count by their content; whether there is one counts here
        return "Path"
    if type(value) in PLAIN:
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_text, value))}]"
    if isinstance(value, np.ndarray) and value.dtype.kind in "iufb":
        return f"{value.dtype}{value.shape}{hashlib.blake2b(value.tobytes(), digest_size=16).hexdigest()}"
    if isinstance(value, dict):
        return f"{{{','.join(f'{_text(key)}:{_text(item)}' for key, item in value.items())}}}"
    kind: Any = type(value)
    if is_dataclass(value) and kind.__module__.startswith(PACKAGE):
        return f"{kind.__name__}({','.join([_text(getattr(value, name)) for name in _field_names(kind)])})"
    raise TypeError(f"{kind.__name__} is no plain data")


@lru_cache
def _field_names(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))
