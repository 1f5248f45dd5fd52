"""Errors in what the user asked for."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class ConfigError(ValueError):
    """Mistakes in what the user asked for, found before anything was done."""


class Mistakes:
    """Collects what is wrong, so that the user sees all of it at once."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def add(self, message: str) -> None:
        """Note a mistake."""
        self.found.append(message)

    def attempt(self, action: Callable[[], Any]) -> Any:
        """The action's result, or None and a note of the error that it raised."""
        try:
            return action()
        except (ValueError, TypeError) as error:
            self.found.append(str(error))
            return None

    def raise_any(self) -> None:
        """Raise one ConfigError with everything found, if anything was."""
        if self.found:
            raise ConfigError("\n".join(self.found))


@contextmanager
def usage() -> Iterator[None]:
    """Everything that goes wrong while the words are taken in is a ConfigError: nothing has been done yet."""
    try:
        yield
    except ConfigError:
        raise
    except (ValueError, TypeError, OSError) as error:
        raise ConfigError(str(error)) from error
