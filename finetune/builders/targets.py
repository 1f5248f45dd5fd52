"""Checks of the classes that a config names as `_target_`."""

import importlib
from collections.abc import Mapping
from typing import Any

from finetune.config.errors import ConfigError


def check_target(entry: Any, kind: type[Any], key: str) -> None:
    """Raise ConfigError unless a config entry names a subclass of a class. It imports modules but calls nothing.

    Args:
        entry: settings with a `_target_`, such as those of a user's callback.
        kind: required base class, such as `lightning.pytorch.Callback`.
        key: key of the entry, such as `callbacks.mine`, for messages.

    Raises:
        ConfigError: the class does not exist or is not a subclass.
    """
    target = entry.get("_target_") if isinstance(entry, Mapping) else None
    if not isinstance(target, str) or not target:
        raise ConfigError(f"{key}={entry}: expected settings that include _target_, the name of a class.")
    expected = f"a subclass of {kind.__module__}.{kind.__qualname__}"
    try:
        value = _find(target)
    except Exception as error:  # importing a module may raise anything
        raise ConfigError(
            f"{key}._target_={target}: expected {expected}, but it cannot be imported: {error or type(error).__name__}"
        ) from error
    if not isinstance(value, type) or not issubclass(value, kind):
        given = "another class" if isinstance(value, type) else f"a {type(value).__name__}"
        raise ConfigError(f"{key}._target_={target} is {given}; expected {expected}.")


def _find(target: str) -> Any:
    """Return the object of a dotted name, by the same rules as Hydra."""
    name, *rest = target.split(".")
    value: Any = importlib.import_module(name)
    for part in rest:
        name = f"{name}.{part}"
        value = getattr(value, part) if hasattr(value, part) else importlib.import_module(name)
    return value
