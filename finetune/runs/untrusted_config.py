"""What a config may make this process run, write or send, depending on who wrote it."""

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch import loggers as lightning_loggers

from finetune import callbacks
from finetune.config.errors import ConfigError
from finetune.engine import loggers
from finetune.io.safe_files import FileError, check_plain
from finetune.runs.saved_config import PLACES

# settings that say to whom something is sent, or as whom
RECEIVERS = {"entity", "workspace", "teamspace", "api_key", "settings", "experiment_key", "model_registry"}
ADDRESS = re.compile(r"[\w+.-]+://|[/\\]{2}")  # or a share of another host
ELSEWHERE = re.compile(r"[/\\]|~\w*[/\\]|\w:[/\\]|(.*[/\\])?\.\.([/\\]|$)|file:", re.DOTALL)
KeyPath = tuple[str | int, ...]


def check_stranger(config: Mapping[str, Any], trusted: Collection[str] = ()) -> None:
    """Raise unless a training with a stranger's config would run, write and send nothing but what every run does.

    A callback or logger may be one of this toolkit or of Lightning, with plain settings, and may write below `output`.
    Data, and weights that are read as plain tensors, may lie anywhere on this machine.

    Args:
        config: from `read_config`, with the words of the command in it.
        trusted: dotted names of the settings that the words set, such as `callbacks.mine._target_`. Each stands for
            itself alone, but `callbacks.mine` for its `_target_` too.

    Raises:
        ConfigError: with everything that the user would have to say again to have it done.
    """
    said = {tuple(key.split(".")) for key in trusted}
    said |= {(*key, "_target_") for key in said}
    try:
        check_plain(config, Path("config.yaml"))
    except FileError as error:
        raise ConfigError(str(error)) from error
    output = Path(str(config.get("output", ""))).resolve()
    found = [(place, value, _objection(place, value, output)) for place, value in _all(config, said)]
    if refused := [f"{_said(place, value)}: {reason}" for place, value, reason in found if reason]:
        raise ConfigError(
            "the run's config.yaml may come from a stranger, and has settings that are followed only if you say them "
            "yourself, in the words of the command:\n- " + "\n- ".join(refused)
        )


def _all(value: Any, said: Collection[tuple[str, ...]], place: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Every setting and group below a place, but for what the user said; a list is said as a whole."""
    is_said = tuple(map(str, place)) in said
    if place and not is_said:
        yield place, value
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _all(inner, said, (*place, key))
    elif isinstance(value, list | tuple) and not is_said:
        for index, inner in enumerate(value):
            yield from _all(inner, said, (*place, index))


def _objection(place: KeyPath, value: Any, output: Path) -> str | None:
    """Why a setting is not followed; None if it is."""
    group, name = place[0], place[-1]
    if group in ("hydra", "defaults"):
        return "that is for Hydra, and no part of a run's config."
    if isinstance(value, str) and "${" in value:
        return "a reference; a run's own config holds the values themselves."
    if name == "_target_":
        own = len(place) == 3 and isinstance(place[1], str) and str(value) in OFFERED.get(group, ())
        return None if own else "the code behind it would be run; it is no callback or logger of this toolkit's."
    if place == ("loss", "target") and value is not None:
        return "the code behind it would be run."
    if isinstance(name, str) and re.fullmatch(r"_\w*_", name):
        return "it changes how the code behind a _target_ is run."
    if name in RECEIVERS and value not in (None, ""):
        return "it says who is sent the results, or more."
    if not isinstance(value, str):
        return None
    if ADDRESS.match(value):
        return "an address; nothing is fetched from one or sent to one."
    if group in ("callbacks", "logger", "trainer") and (name in PLACES or ELSEWHERE.match(value)):
        return None if _is_below(value, output) else f"it leads out of the run's folder, '{output}'."
    return None


def _said(place: KeyPath, value: Any) -> str:
    """A setting as it would be said in a command, cut short, and without what would move a terminal's cursor."""
    text = f"{'.'.join(map(str, place))}={value}"
    return (text if text.isprintable() else repr(text))[:300]


def _is_below(value: str, output: Path) -> bool:
    try:
        return Path(value).expanduser().resolve().is_relative_to(output)
    except (OSError, RuntimeError, ValueError):  # no path at all, or an unknown user's home
        return False


def _offered(kind: type[Any], *modules: ModuleType) -> set[str]:
    """Dotted names of the classes of a kind that modules offer: there, and where each is defined."""
    classes = [(module, getattr(module, name)) for module in modules for name in module.__all__]
    return {
        f"{place}.{found.__name__}"
        for module, found in classes
        if isinstance(found, type) and issubclass(found, kind)
        for place in (module.__name__, found.__module__)
    }


OFFERED: Mapping[str | int, set[str]] = {
    "callbacks": _offered(pl.Callback, callbacks, lightning_callbacks),
    "logger": _offered(lightning_loggers.Logger, loggers, lightning_loggers),
}
