"""Finds settings of another kind than those in conf/: a word where a number belongs, a list where a word does."""

from collections.abc import Iterator, Mapping
from typing import Any

from finetune.config.compose import packaged_options
from finetune.config.options import Config

GROUPS = ("task", "backbone", "head", "auxiliary", "loss", "optimizer", "augment", "schedule", "tuning", "data")
# settings that take more kinds than their answers in conf/ show; those who read them check them
FREE = {
    *("augment.crop", "backbone.weights", "data.size", "head.norm"),
    *("loss.class_weights", "task.thresholds"),
    *("tuning.unfreeze_at", "tuning.unfreeze_stagger", "tuning.warmup"),
}
SEARCHED = {"data.batch_size", "optimizer.lr"}  # before the kinds are looked at
SAID = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "a word",
    "list": "a list",
    "dict": "a group of settings",
    "NoneType": "null",
}


def type_errors(config: Config) -> list[str]:
    """What is wrong with the kinds of a training's settings, a line for each."""
    return [line for group in GROUPS for line in _other_kinds(group, config.get(group) or {}, _known(group))]


def _known(group: str) -> dict[str, set[str]]:
    """The kinds that each setting of a group has in the answers of conf/, by its full name."""
    known: dict[str, set[str]] = {}
    for answer in packaged_options(group).values():
        for key, value in _leaves(group, answer):
            known.setdefault(key, set()).add(_kind(value))
    return known


def _leaves(group: str, settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        yield f"{group}.{name}", value
        if isinstance(value, dict):
            yield from _leaves(f"{group}.{name}", value)


def _kind(value: Any) -> str:
    return "open" if isinstance(value, str) and "${" in value else type(value).__name__


def _other_kinds(group: str, settings: Config, known: Mapping[str, set[str]]) -> Iterator[str]:
    for key, value in _leaves(group, settings):
        kinds = known.get(key, set())
        if not kinds or kinds == {"NoneType"} or "open" in kinds or key in FREE or _fits(value, kinds):
            continue
        expected = " or ".join(said for kind, said in SAID.items() if kind in kinds and kind != "NoneType")
        yield f"{key}={value}: expected {expected}{' or auto' if key in SEARCHED else ''}."


def _fits(value: Any, kinds: set[str]) -> bool:
    """Whether a value is of one of the kinds; a whole number is a number too.

    >>> _fits(1, {"float"}), _fits(1.0, {"int"}), _fits(True, {"int"}), _fits(None, {"int", "NoneType"})
    (True, False, False, True)
    """
    return type(value).__name__ in kinds | ({"int"} if "float" in kinds else set())
