"""Options of a config group, compared with the arguments of what they are for."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from finetune.config.errors import ConfigError
from finetune.io.messages import suggest

Config = Mapping[str, Any]


def validate_options(
    group: str, function: Callable[..., Any], options: Config, skip: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the options if the function has an argument for each of them.

    Args:
        group: name of the config group, for messages.
        function: function or class that takes the options.
        options: name -> value.
        skip: arguments that are no options.

    Raises:
        ConfigError: unknown options; the nearest names are shown.
    """
    names = [name for name in inspect.signature(function).parameters if name not in skip]
    if unknown := [name for name in options if name not in names]:
        hints = "; ".join(f"'{name}': {suggest(name, names)}" for name in unknown)
        raise ConfigError(f"{group} has unknown options: {hints}")
    return {str(name): value for name, value in options.items()}


def drop_name(settings: Config, *also: str) -> dict[str, Any]:
    """Return the settings without `name` and the other given keys."""
    return {key: value for key, value in settings.items() if key not in ("name", *also)}
