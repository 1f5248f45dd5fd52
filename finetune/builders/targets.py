"""Check the classes that a config names."""

import importlib
from collections.abc import Mapping
from typing import Any, TypeVar

from finetune.config.errors import ConfigError

T = TypeVar("T")


def check_target(entry: Any, kind: type[Any], key: str) -> None:
    """Raise unless a config's entry names a class of a kind; modules are imported for it, and nothing is called.

    Args:
        entry: with a `_target_`, such as a callback of the user's own.
        kind: base class that it must have, such as `lightning.pytorch.Callback`.
        key: name of the entry, such as `callbacks.mine`.

    Raises:
        ConfigError: no such class, or one without that base class.
    """
    target = entry.get("_target_") if isinstance(entry, Mapping) else None
    if not isinstance(target, str) or not target:
        raise ConfigError(f"{key}={entry}: expected a group of settings with _target_, a class, among them.")
    find_class(target, kind, f"{key}._target_")


def find_class(target: str, kind: type[T], key: str) -> type[T]:
    """Return the class of a dotted name; its module is imported, and nothing is called.

    Args:
        target: dotted name, such as `torch.nn.CrossEntropyLoss`.
        kind: base class that it must have.
        key: name of the setting, such as `loss.target`, for messages.

    Raises:
        ConfigError: no such class, or one without that base class.
    """
    expected = f"a class derived from {kind.__module__}.{kind.__qualname__}"
    try:
        found = _find(target)
    except Exception as error:  # a module can fail in any way when it is imported
        raise ConfigError(
            f"{key}={target}: expected {expected}, but it cannot be imported: {error or type(error).__name__}"
        ) from error
    if not isinstance(found, type) or not issubclass(found, kind):
        what = "a class of another kind" if isinstance(found, type) else f"a {type(found).__name__}"
        raise ConfigError(f"{key}={target}: that is {what}; expected {expected}.")
    return found


def _find(target: str) -> Any:
    """Return the object of a dotted name, by the same rules as Hydra."""
    name, *rest = target.split(".")
    found: Any = importlib.import_module(name)
    for part in rest:
        name = f"{name}.{part}"
        found = getattr(found, part) if hasattr(found, part) else importlib.import_module(name)
    return found
