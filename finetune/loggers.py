"""Loggers beside `metrics.csv`, set up so that a training that goes on continues what they show."""

import uuid
from collections.abc import Mapping
from typing import Any

Entries = dict[str, dict[str, Any]]


def identified(entries: Mapping[str, Mapping[str, Any] | None]) -> Entries:
    """The loggers' settings with names by which their services know the run again.

    Args:
        entries: by name, each with its `_target_`.
    """
    named = _copied(entries)
    for entry in named.values():
        if _is(entry, "WandbLogger"):
            entry.setdefault("id", uuid.uuid4().hex[:8])
            entry.setdefault("resume", "allow")
    return named


def continued(entries: Mapping[str, Mapping[str, Any] | None], step: int) -> Entries:
    """The settings of a training that goes on: what was logged behind its checkpoint is logged again.

    Args:
        entries: by name, each with its `_target_`.
        step: optimizer steps that lie behind.
    """
    named = _copied(entries)
    for entry in named.values():
        if _is(entry, "TensorBoardLogger"):
            entry["purge_step"] = step  # it hides what is there from this step on
    return named


def _copied(entries: Mapping[str, Mapping[str, Any] | None]) -> Entries:
    return {name: dict(entry) for name, entry in entries.items() if entry}


def _is(entry: Mapping[str, Any], kind: str) -> bool:
    return str(entry.get("_target_", "")).rpartition(".")[2] == kind
