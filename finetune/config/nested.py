"""Dotted keys of nested settings."""

from collections.abc import Iterator, Mapping
from typing import Any

MISSING = object()  # stands for the value of a key that is not there


def walk(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the value of every group and setting, outer ones first.

    A mapping with other keys than text is a value, and no group.

    >>> list(walk({"a": {"b": 1}, "c": {0: 2}}))
    [('a', {'b': 1}), ('a.b', 1), ('c', {0: 2})]
    """
    is_group = isinstance(values, dict) and all(isinstance(key, str) for key in values)
    for key, value in values.items() if is_group else ():
        yield f"{prefix}{key}", value
        yield from walk(value, f"{prefix}{key}.")


def leaves(values: Any) -> dict[str, Any]:
    """Return all settings that are no groups with further ones, by dotted key.

    >>> leaves({"a": {"b": 1, "c": {}}, "d": [2]})
    {'a.b': 1, 'a.c': {}, 'd': [2]}
    """
    return {key: value for key, value in walk(values) if not any(walk(value))}


def select(values: Any, key: str) -> Any:
    """Return the value of a dotted key, or `MISSING`."""
    for name in key.split("."):
        values = values.get(name, MISSING) if isinstance(values, dict) else MISSING
    return values


def with_value(values: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Return a copy of nested settings with another value of a dotted key.

    >>> with_value({"a": {"b": 1, "c": 2}}, "a.b", 3)
    {'a': {'b': 3, 'c': 2}}
    """
    name, _, inner = key.partition(".")
    return {**values, name: with_value(values.get(name, {}), inner, value) if inner else value}


def set_value(values: dict[str, Any], key: str, value: Any) -> None:
    """Set the value of a dotted key, creating the groups above it."""
    *groups, name = key.split(".")
    for group in groups:
        if not isinstance(values.get(group), dict):
            values[group] = {}
        values = values[group]
    values[name] = value


def remove(values: dict[str, Any], key: str) -> None:
    """Remove a dotted key, if it is there."""
    group, _, name = key.rpartition(".")
    parent = select(values, group) if group else values
    if isinstance(parent, dict):
        parent.pop(name, None)


def is_under(key: str, group: str) -> bool:
    """Return whether a dotted key is the group itself or lies in it."""
    return key == group or key.startswith(f"{group}.")
