"""Options that a config gives, against those that there are."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from finetune.config.errors import ConfigError
from finetune.io.messages import suggest

Config = Mapping[str, Any]


def validate_options(
    group: str, function: Callable[..., Any], given: Config, skip: Sequence[str] = ()
) -> dict[str, Any]:
    """The given options, if the function has all of them.

    Raises:
        ConfigError: one that it has not; the nearest names are shown.
    """
    names = [name for name in inspect.signature(function).parameters if name not in skip]
    unknown = [name for name in given if name not in names]
    if unknown:
        hints = "; ".join(f"'{name}': {suggest(name, names)}" for name in unknown)
        raise ConfigError(f"{group} has unknown options: {hints}")
    return {str(name): value for name, value in given.items()}


def drop_name(settings: Config, *also: str) -> dict[str, Any]:
    """The settings but for their name and those said besides."""
    return {key: value for key, value in settings.items() if key not in ("name", *also)}
