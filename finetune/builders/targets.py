"""Check the classes that a config names."""

import importlib
from collections.abc import Mapping
from typing import Any

from finetune.config.errors import ConfigError


def check_target(entry: Any, kind: type[Any], key: str) -> None:
    """Raise unless a config's entry names a class of a kind; modules are imported for it, and nothing is called.

    Args:
        entry: with a `_target_`, such as a callback of the user's own.
        kind: what it is to be derived from, such as `lightning.pytorch.Callback`.
        key: of the entry, such as `callbacks.mine`.

    Raises:
        ConfigError: no such class, or one of another kind.
    """
    target = entry.get("_target_") if isinstance(entry, Mapping) else None
    if not isinstance(target, str) or not target:
        raise ConfigError(f"{key}={entry}: expected a group of settings with _target_, a class, among them.")
    wanted = f"a class derived from {kind.__module__}.{kind.__qualname__}"
    try:
        found = _find(target)
    except Exception as error:  # a module can fail in any way when it is imported
        raise ConfigError(
            f"{key}._target_={target}: expected {wanted}, but it cannot be imported: {error or type(error).__name__}"
        ) from error
    if not isinstance(found, type) or not issubclass(found, kind):
        what = "a class of another kind" if isinstance(found, type) else f"a {type(found).__name__}"
        raise ConfigError(f"{key}._target_={target}: that is {what}; expected {wanted}.")


def _find(target: str) -> Any:
    """What a dotted name stands for, by the same rules as Hydra's."""
    name, *rest = target.split(".")
    found: Any = importlib.import_module(name)
    for part in rest:
        name = f"{name}.{part}"
        found = getattr(found, part) if hasattr(found, part) else importlib.import_module(name)
    return found
