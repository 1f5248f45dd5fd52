"""Compose a config from Hydra overrides, and turn it into plain data."""

import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, ValueType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from finetune.config.composition import compose_with_hydra
from finetune.config.errors import ConfigError, raise_mistakes
from finetune.config.explain import check_group_choices, explain
from finetune.config.folder import config_folder
from finetune.config.nested import MISSING, select, set_value
from finetune.config.overrides import readable
from finetune.config.unread import check_read

# settings that name a file, a folder or a run; Hydra reads some names as numbers, such as 2024 and nan
TEXTS = ("name", "output", "run", "input", "resume", "init_from", "data.root", "data.splits", "data.exclude")


def compose(*overrides: str, command: str = "train") -> DictConfig:
    """Compose the config of a command from the same overrides as on the command line.

    Args:
        overrides: in Hydra's grammar, such as `data=folder` or `optimizer.lr=3e-4`.
        command: name of a command.

    Raises:
        ConfigError: an override that does not fit; the nearest names are shown.

    >>> compose("backbone=resnet50", "seed=3").backbone.name
    'resnet50.a1_in1k'
    """
    overrides = tuple(map(readable, overrides))
    check_group_choices(overrides)
    try:
        return compose_with_hydra(command, overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error, command, overrides)) from error


@cache
def packaged_options(group: str) -> dict[str, dict[str, Any]]:
    """Return the settings of every option of a config group, by name, with interpolations as written.

    Those of the options that an option builds on are among them.
    """
    paths = sorted((config_folder() / group).glob("*.yaml"))
    files: dict[str, Any] = {path.stem: OmegaConf.to_container(OmegaConf.load(path)) for path in paths}

    def settings(name: str) -> dict[str, Any]:
        own = dict(files[name])
        parents = [each for each in own.pop("defaults", ()) if isinstance(each, str) and each in files]
        return {key: value for each in parents for key, value in settings(each).items()} | own

    return {name: settings(name) for name in files}


def first_sweep_job(overrides: Sequence[str]) -> list[str]:
    """Return the overrides of a sweep's first job.

    Raises:
        ConfigError: an override that cannot be parsed.

    >>> first_sweep_job(["seed=1,2", "name=a", "optimizer.lr=interval(1e-4, 1e-2)"])
    ['seed=1', 'name=a', 'optimizer.lr=0.0001']
    """
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise ConfigError(explain(error, "train")) from error
    first = []
    for text, override in zip(overrides, parsed, strict=True):
        value = override.value()
        if not override.is_sweep_override():
            first.append(text)
        elif isinstance(value, IntervalSweep):  # of a sweeper such as Optuna's
            first.append(f"{text.partition('=')[0]}={value.start}")
        elif override.value_type != ValueType.GLOB_CHOICE_SWEEP:  # Hydra finds the options that a glob matches
            first.append(f"{text.partition('=')[0]}={next(iter(override.sweep_string_iterator()))}")
    return first


def to_plain_dict(config: DictConfig) -> dict[str, Any]:
    """Return the config as plain lists, dicts, numbers and strings, with all interpolations resolved.

    Raises:
        ConfigError: a missing value, or an interpolation that leads nowhere.
    """
    try:
        content = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from error
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def load_config(overrides: Sequence[str | DictConfig], command: str) -> dict[str, Any]:
    """Return the plain config of a command, from overrides or from one composed config."""
    return to_run_config(as_composed(overrides, command))


def as_composed(overrides: Sequence[str | DictConfig], command: str) -> DictConfig:
    """Return the config as Hydra composes it, from overrides or from one composed config.

    Raises:
        ConfigError: an override that does not fit, or that nothing reads.
    """
    is_composed = len(overrides) == 1 and isinstance(overrides[0], DictConfig)
    if not is_composed and (others := [each for each in overrides if not isinstance(each, str)]):
        raise ConfigError(
            f"got an override of type {type(others[0]).__name__}: expected texts, as in {command}('seed=1', 'name=a'), "
            f"or one composed config alone."
        )
    config = overrides[0] if is_composed else compose(*cast(Sequence[str], overrides), command=command)
    assert isinstance(config, DictConfig)
    check_read(config, command)
    return config


NO_FILES = ("pretrained", "none")  # weights that are no path, whatever is called so


def to_run_config(config: DictConfig) -> dict[str, Any]:
    """Return the config as plain data, with the paths of the data made absolute: a run is used from other folders.

    Raises:
        ConfigError: a path that is a number.
    """
    values = to_plain_dict(config)
    given = {key: select(values, key) for key in TEXTS}
    raise_mistakes(
        _not_text(key, value)
        for key, value in given.items()
        if not isinstance(value, str | None)
        and value is not MISSING
        and not (key in ("run", "input") and _are_texts(value))
    )
    texts = {key: select(values, key) for key in (*TEXTS, "backbone.weights", "head.weights")}
    raise_mistakes(
        f"{key} is empty. Leave it out, or give a value; a variable of the shell may not be set."
        if value == ""
        else f"{key}={os.fsencode(value)!r} is not UTF-8, so files could not name it. Rename the file or folder."
        for key, value in texts.items()
        if value == "" or (isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value))
    )
    if values.get("output", "") is None and "name" in values:
        raise ConfigError("output is not set. Leave it out, or name a folder.")
    data = values.get("data") or {}
    for key in ("root", "splits", "exclude"):
        if isinstance(data.get(key), str) and data[key]:
            path = _without_home(data[key])
            if path.exists() or key != "root" or data.get("format") != "hf":  # which may be a name on the Hub
                data[key] = str(path.resolve())
    for key in ("output", "run", "input", "init_from", "plan.figure"):
        value = select(values, key)
        if isinstance(value, str) and value.startswith("~"):
            set_value(values, key, str(_without_home(value)))
        elif _are_texts(value):
            set_value(values, key, [str(_without_home(each)) if each.startswith("~") else each for each in value])
    for key in ("backbone.weights", "head.weights"):
        value = select(values, key)
        if isinstance(value, str) and value not in NO_FILES and (path := _without_home(value)).is_file():
            set_value(values, key, str(path.absolute()))  # a link may have the suffix, and not what it leads to
    return values


def _without_home(path: str) -> Path:
    """Return a path with the home folder for a first `~`, unless a file or folder has that name."""
    try:
        return Path(path) if Path(path).exists() else Path(path).expanduser()
    except RuntimeError:  # no such user
        return Path(path)


def _not_text(key: str, value: Any) -> str:
    if isinstance(value, list | dict):
        return f"{key}={value}: expected a single text."
    return f"{key} was read as {value}, which is no text. Quote a name like that twice: '{key}=\"2024\"'"


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def required(config: Mapping[str, Any], key: str) -> str:
    """Return the value of a key that the command needs.

    Raises:
        ConfigError: it is not set, or a list.
    """
    if not config[key]:
        raise ConfigError(f"{key} is not set. Set {key}=...")
    if isinstance(config[key], list):
        raise ConfigError(_not_text(key, config[key]))
    return str(config[key])


def required_paths(config: Mapping[str, Any], key: str) -> list[Path]:
    """Return the paths of a key that the command needs: one, or a list of them.

    Raises:
        ConfigError: it is not set.
    """
    several = bool(config[key]) and _are_texts(config[key])
    return [Path(each) for each in config[key]] if several else [Path(required(config, key))]
