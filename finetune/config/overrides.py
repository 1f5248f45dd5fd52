"""Hydra overrides as text: quoting, and what they name."""

import re
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

_PLAIN = re.compile(r"[A-Za-z0-9_./\\@?|%+:-]+")  # characters that Hydra's grammar takes without quotes


def override(key: str, value: Any) -> str:
    r"""Return `key=value` with the value quoted where Hydra's grammar asks for it.

    >>> override("seed", 3), override("output", "x/lr=0.1, (x)"), override("output", "it's")
    ('seed=3', "output='x/lr=0.1, (x)'", "output='it\\'s'")
    """
    text = "null" if value is None else str(value)
    if not isinstance(value, str) or (_PLAIN.fullmatch(text) and _reads_back(key, text)):
        return f"{key}={text}"
    quoted = re.sub(r"(\\*)'", r"\1\1\\'", text)  # backslashes before a quote are doubled, and the quote is escaped
    if trailing := re.search(r"\\+$", quoted):
        quoted += trailing[0]
    return f"{key}='{quoted}'"


def _reads_back(key: str, text: str) -> bool:
    """Return whether Hydra reads the unquoted text as the same string, and not as a number or null."""
    try:
        (parsed,) = OverridesParser.create().parse_overrides([f"{key}={text}"])
    except HydraException:
        return False
    value = parsed.value()
    return isinstance(value, str) and value == text
