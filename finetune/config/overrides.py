"""Hydra overrides as text: quoting, and what they name."""

import re
import shlex
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

_PLAIN = re.compile(r"[A-Za-z0-9_./\\@?|%+:-]+")  # characters that Hydra's grammar takes without quotes
_PLACE = re.compile(r"\{\w+\}.")  # the start of a path such as {stem}/masks, and no mapping
# what is between the signs of a list of lists or of a mapping
_ELEMENT = re.compile(r"""([\[,:]\s*)([^\s\[\]{},:'"](?:[^\[\]{},:'"]*[^\s\[\]{},:'"])?)(?=\s*[,\]}])""")
_QUOTED_KEY = re.compile(r"""([{,]\s*)(["'])([^"']*)\2(?=\s*:)""")
_NONE = re.compile(r"([\[,:]\s*)None(?=\s*[,\]}])")
# calls of Hydra's grammar: a mistake in one is better explained than taken for text
_CALL = re.compile(r"(choice|range|interval|glob|sort|shuffle|tag|extend_list|int|float|str|bool|json_str)\(")


def override(key: str, value: Any) -> str:
    r"""Return `key=value` with the value quoted where Hydra's grammar asks for it.

    >>> override("seed", 3), override("output", "x/lr=0.1, (x)"), override("output", "it's")
    ('seed=3', "output='x/lr=0.1, (x)'", "output='it\\'s'")
    """
    text = "null" if value is None else str(value)
    if not isinstance(value, str) or (_PLAIN.fullmatch(text) and _reads_back(key, text, text)):
        return f"{key}={text}"
    return f"{key}={quoted(text)}"


def rejoined(words: Sequence[str]) -> list[str]:
    """Return the words of a shell with those as one that a space in brackets has cut apart.

    >>> rejoined(["data.classes={road:", "#ff00ff,", "car: 1}", "seed=1"]), rejoined(["x=[1,", "seed=1"])
    (['data.classes={road: #ff00ff, car: 1}', 'seed=1'], ['x=[1,', 'seed=1'])
    """
    joined: list[str] = []
    rest = list(words)
    while rest:
        ends = (end for end in range(1, len(rest) + 1) if not _is_open(" ".join(rest[:end])))
        end = next(ends, 1) if _is_open(rest[0]) else 1
        joined.append(" ".join(rest[:end]))
        del rest[:end]
    return joined


def _is_open(text: str) -> bool:
    """Return whether the value of an override begins with a bracket and lacks the closing one."""
    value = text.partition("=")[2]
    return value[:1] in ("[", "{") and any(value.count(a) > value.count(b) for a, b in ("[]", "{}"))


def readable(text: str) -> str:
    """Return an override that Hydra's grammar reads, by quoting a value, or elements of it, that it does not.

    An override that Hydra reads, or that no quoting helps, is returned unchanged.

    >>> readable("data.root=data (1)"), readable("data.classes=[ground,Straße]"), readable("seed=1,2")
    ("data.root='data (1)'", "data.classes=[ground,'Straße']", 'seed=1,2')
    >>> readable("data.classes={road: #ff00ff}"), readable("data.masks={stem}/masks")
    ("data.classes={road: '#ff00ff'}", "data.masks='{stem}/masks'")
    >>> readable("data.classes={'road': '#804080', 'traffic light': 19}")
    "data.classes={road: '#804080', traffic light: 19}"
    """
    key, equals, value = text.partition("=")
    if not equals or text.startswith("-") or _parse(text) is not None or _CALL.match(value):
        return text
    if _PLACE.match(value) or value[:1] not in ("[", "{", "'", '"'):
        candidate = f"{key}={quoted(value)}"
    elif value[:1] + value[-1:] == "[]" and not re.search(r"[\[\]{}]", value[1:-1]):
        elements = [element.strip() for element in value[1:-1].split(",")]
        candidate = f"{key}=[{','.join(map(_element, elements))}]"
    elif value[:1] + value[-1:] in ("[]", "{}"):
        if _QUOTED_KEY.search(value):  # as Python and JSON write mappings
            value = _NONE.sub(r"\1null", _QUOTED_KEY.sub(r"\1\3", value))
        candidate = f"{key}={_ELEMENT.sub(lambda found: found[1] + _element(found[2]), value)}"
    else:
        return text
    return text if _parse(candidate) is None else candidate


def _element(text: str) -> str:
    return text if _parse(f"x={text}") else quoted(text)


def typed(key: str, value: Any) -> str:
    """Return `key=value` as one types it in a shell, to be read as text.

    >>> print(typed("run", "runs/a"), typed("run", "a (1)"), typed("run", "2024"))
    run=runs/a 'run=a (1)' 'run="2024"'
    """
    text = str(value)
    if _reads_back(key, readable(f"{key}={text}").partition("=")[2], text):
        return shlex.quote(f"{key}={text}")
    return shlex.quote(override(key, text) if '"' in text or "\\" in text else f'{key}="{text}"')


def quoted(text: str) -> str:
    """Return a value in quotes, as Hydra reads it back."""
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", text)  # backslashes before a quote are doubled, and the quote is escaped
    if trailing := re.search(r"\\+$", escaped):
        escaped += trailing[0]
    return f"'{escaped}'"


def _reads_back(key: str, typed_value: str, text: str) -> bool:
    """Return whether Hydra reads a value as the text, and not as a number, null or a sweep."""
    parsed = _parse(f"{key}={typed_value}")
    value = None if parsed is None else parsed.value()
    return isinstance(value, str) and value == text


def _parse(text: str) -> Override | None:
    """Return the override as Hydra parses it, or None if it does not."""
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException:
        return None
