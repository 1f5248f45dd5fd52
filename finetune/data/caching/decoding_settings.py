"""The settings that decide how the files of an image or a target are decoded."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finetune.data.caching.columns import are_one, field_columns, field_names, is_ours
from finetune.data.records import Record

PLAIN = (str, int, float, bool, type(None))


def record_settings(record: Record, channels: int) -> str | None:
    """Return everything but files that decides how a record is decoded; None if that cannot be told."""
    image, target = decoding_settings(record.image), decoding_settings(record.target)
    return None if image is None or target is None else f"{channels} {image} {target}"


def decoding_settings(value: object) -> str | None:
    """Return the settings of an image or a target as text; None if it is not a class of this package.

    The code of other classes may change from one run to the next, and they may hold anything.

    >>> from finetune.data.files import MaskFile
    >>> decoding_settings(MaskFile(Path("a.png"), [0, 255])), decoding_settings(3 + 4j)
    ('MaskFile(Path,[0,255],255,False,1)', None)
    """
    try:
        return _text(value)
    except TypeError:
        return None


def settings_of_all(values: Sequence[object]) -> str | None:
    """Return the settings of at least one image or target as text, as `decoding_settings` does for each of them."""
    try:
        return _text_of_all(values)
    except TypeError:
        return None


def _text_of_all(values: Sequence[object]) -> str:
    if are_one(values):
        return _text(values[0])
    if (columns := field_columns(values)) is not None:
        return f"{columns[0].__name__}{{{','.join(map(_text_of_all, columns[1]))}}}"
    if all(issubclass(kind, Path) for kind in set(map(type, values))):
        return "Path"
    return f"each{_text(values)}"


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
    if is_ours(kind):
        return f"{kind.__name__}({','.join([_text(getattr(value, name)) for name in field_names(kind)])})"
    raise TypeError(f"{kind.__name__} is no plain data")
