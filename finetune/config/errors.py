"""Errors in what the user asked for."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any


class ConfigError(ValueError):
    """Mistakes in overrides, config or data, found before anything was done."""


@contextmanager
def usage() -> Iterator[None]:
    """Turn errors that built-in code raises for wrong arguments or files into a ConfigError.

    For the part of a command that only takes in what the user asked for: nothing has been done yet.
    """
    try:
        yield
    except ConfigError:
        raise
    except (ValueError, TypeError, OSError) as error:
        raise ConfigError(str(error)) from error


def mistakes_of(checks: Iterable[Callable[..., Any]], *arguments: Any) -> list[str]:
    """Call every check with the arguments and return the messages of the errors that they raise."""
    messages = []
    for check in checks:
        try:
            check(*arguments)
        except (ValueError, TypeError) as error:
            messages.append(str(error))
    return messages


def raise_mistakes(messages: Iterable[str]) -> None:
    """Raise one ConfigError with all messages, if there are any."""
    if text := "\n".join(dict.fromkeys(messages)):  # two checks may find the same
        raise ConfigError(text)
