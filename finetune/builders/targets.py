"""Checks of the classes that a config names as `_target_`."""

import importlib
from collections.abc import Mapping
from typing import Any, TypeVar

from finetune.config.errors import ConfigError

T = TypeVar("T")


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
    find_class(target, kind, f"{key}._target_")


def find_class(target: str | None, kind: type[T], key: str) -> type[T]:
    """Return the class of a dotted name. It imports modules but calls nothing.

    Args:
        target: dotted name, such as `torch.nn.CrossEntropyLoss`; None if the user gave none, which is an error.
        kind: required base class.
        key: key of the setting, such as `loss.target`, for messages.

    Raises:
        ConfigError: the class does not exist or is not a subclass.
    """
    expected = f"a subclass of {kind.__module__}.{kind.__qualname__}"
    if target is None:
        raise ConfigError(f"{key} is not set: expected the dotted name of {expected}.")
    try:
        value = find_object(target)
    except Exception as error:  # importing a module may raise anything
        raise ConfigError(
            f"{key}={target}: expected {expected}, but it cannot be imported: {error or type(error).__name__}"
        ) from error
    if not isinstance(value, type) or not issubclass(value, kind):
        given = "another class" if isinstance(value, type) else f"a {type(value).__name__}"
        raise ConfigError(f"{key}={target} is {given}; expected {expected}.")
    return value


def find_object(target: str) -> Any:
    """Return the object of a dotted name, by the same rules as Hydra, which would log a failure as well."""
    name, *rest = target.split(".")
    value: Any = importlib.import_module(name)
    for part in rest:
        name = f"{name}.{part}"
        value = getattr(value, part) if hasattr(value, part) else importlib.import_module(name)
    return value
