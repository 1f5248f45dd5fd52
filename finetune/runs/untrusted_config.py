"""Check which settings of a config from an untrusted source may be followed."""

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
from finetune.data import SOURCES
from finetune.engine import loggers
from finetune.io.safe_files import FileError, check_plain
from finetune.runs.saved_config import PLACES

# settings that name the account that results are sent to
RECEIVERS = {"entity", "workspace", "teamspace", "api_key", "settings", "experiment_key", "model_registry"}
ADDRESS = re.compile(r"[\w+.-]+://|[/\\]{2}")  # a URL, or a share of another host
ELSEWHERE = re.compile(r"[/\\]|~\w*[/\\]|\w:[/\\]|(.*[/\\])?\.\.([/\\]|$)|file:", re.DOTALL)
KeyPath = tuple[str | int, ...]


def check_untrusted_config(config: Mapping[str, Any], trusted: Collection[str] = ()) -> None:
    """Raise unless a training with an untrusted config would only run, write and send what every run does.

    Callbacks and loggers must be classes of this toolkit or of Lightning with plain settings, and write below `output`.
    Data, and weights that are read as plain tensors, may be anywhere on this machine.

    Args:
        config: the config from `read_config` with the overrides of the user applied.
        trusted: dotted names of the settings that the user gave, such as `callbacks.mine._target_`. Each covers only
            itself; `callbacks.mine` also covers its `_target_`.

    Raises:
        ConfigError: lists all settings that the user would have to give again.
    """
    overridden = {tuple(key.split(".")) for key in trusted}
    overridden |= {(*key, "_target_") for key in overridden}
    try:
        check_plain(config, Path("config.yaml"))
    except FileError as error:
        raise ConfigError(str(error)) from error
    output, data = Path(str(config.get("output", ""))).resolve(), config.get("data") or {}
    settings = [(key, value, _objection(key, value, output)) for key, value in _settings(config, overridden)]
    if data.get("format") == "hf" and ("data", "root") not in overridden and not Path(str(data.get("root"))).is_dir():
        settings.append((("data", "root"), data.get("root"), "it would be downloaded from the Hugging Face Hub."))
    if refused := [f"{_as_override(key, value)}: {reason}" for key, value, reason in settings if reason]:
        raise ConfigError(
            "the run's config.yaml may come from an untrusted source, and has settings that are followed only if you "
            "give them again on the command line:\n- " + "\n- ".join(refused)
        )


def _settings(value: Any, overridden: Collection[tuple[str, ...]], key: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Yield all settings and groups below a key that the user did not override; a list is overridden as a unit."""
    is_overridden = tuple(map(str, key)) in overridden
    if key and not is_overridden:
        yield key, value
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _settings(inner, overridden, (*key, name))
    elif isinstance(value, list | tuple) and not is_overridden:
        for index, inner in enumerate(value):
            yield from _settings(inner, overridden, (*key, index))


def _objection(key: KeyPath, value: Any, output: Path) -> str | None:
    """Return why a setting is not followed, or None if it is."""
    group, name = key[0], key[-1]
    if group in ("hydra", "defaults"):
        return "it is for Hydra, and no part of a run's config."
    if isinstance(value, str) and "${" in value:
        return "it is a reference; the config of a run holds the values themselves."
    if key == ("data", "format"):
        return None if value in SOURCES else "its code would run; it is no data source of this toolkit."
    if key == ("augment", "_target_") and value in TRANSFORMS:
        return None
    if name == "_target_":
        is_offered = len(key) == 3 and isinstance(key[1], str) and str(value) in OFFERED.get(group, ())
        return None if is_offered else "its code would run; it is no callback or logger of this toolkit or Lightning."
    if key == ("loss", "target") and value is not None:
        return "its code would run."
    if isinstance(name, str) and re.fullmatch(r"_\w*_", name):
        return "it changes how the code of a _target_ is run."
    if name in RECEIVERS and value not in (None, ""):
        return "it names who receives the results, or more."
    if not isinstance(value, str):
        return None
    if key == ("init_from",) and value.startswith("hf://"):
        return None  # a resumed run has the weights of its checkpoint
    if ADDRESS.match(value):
        return "it is a URL; nothing is fetched from one or sent to one."
    if group in ("callbacks", "logger", "trainer") and (name in PLACES or ELSEWHERE.match(value)):
        return None if _is_below(value, output) else f"it leads out of the run's folder, '{output}'."
    return None


def _as_override(key: KeyPath, value: Any) -> str:
    """Return a setting as an override, shortened and without control characters of terminals."""
    text = f"{'.'.join(map(str, key))}={value}"
    return (text if text.isprintable() else repr(text))[:300]


def _is_below(value: str, output: Path) -> bool:
    try:
        return Path(value).expanduser().resolve().is_relative_to(output)
    except (OSError, RuntimeError, ValueError):  # not a path, or the home of an unknown user
        return False


def _offered(base: type[Any], *modules: ModuleType) -> set[str]:
    """Return the dotted names of a base class's subclasses in modules: where they are exported and where defined."""
    exported = [(module, getattr(module, name)) for module in modules for name in module.__all__]
    return {
        f"{home}.{item.__name__}"
        for module, item in exported
        if isinstance(item, type) and issubclass(item, base)
        for home in (module.__name__, item.__module__)
    }


TRANSFORMS = {
    *("finetune.data.Augment", "finetune.data.TrivialAugment"),
    *("finetune.data.adapters.AlbumentationsTransform", "finetune.data.adapters.TorchvisionTransform"),
}
OFFERED: Mapping[str | int, set[str]] = {
    "callbacks": _offered(pl.Callback, callbacks, lightning_callbacks),
    "logger": _offered(lightning_loggers.Logger, loggers, lightning_loggers),
}
