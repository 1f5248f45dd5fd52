"""The config of a run that goes on: its own, with what the words say otherwise and may say otherwise."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from finetune.config.compose import config_folder, to_run_config
from finetune.config.errors import ConfigError
from finetune.runs.saved_config import read_config
from finetune.runs.untrusted_config import check_untrusted_config

# what a training that goes on may have otherwise; with anything else it would be another training
FREE = (
    *("trainer.max_epochs", "trainer.max_steps", "trainer.devices", "trainer.num_nodes", "trainer.accelerator"),
    *("trainer.strategy", "trainer.precision", "trainer.deterministic", "trainer.log_every_n_steps"),
    *("data.root", "data.num_workers", "data.batch_size", "checkpoint", "logger", "callbacks"),
)
HELD = ("callbacks.average",)  # whose state goes on
SETTLED = ("resume", "init_from", "output", "name")  # by the run
AUTO = ("data.batch_size", "optimizer.lr", "trainer.precision")  # that a run finds by itself
PACKAGES = {"average": "callbacks.average"}  # groups that are elsewhere than their name says
MISSING = object()


def resumed_config(composed: DictConfig, words: Sequence[str], folder: Path) -> tuple[dict[str, Any], set[str]]:
    """The config of a run with what the words say otherwise, and the names of what that is.

    Words that say what the run has already change nothing, so the command that began a run may be said again.

    Args:
        composed: of the words.
        words: of the command.
        folder: of the run.

    Raises:
        ConfigError: with everything that would make it another training, or settings that are not safe to follow.
    """
    old = read_config(folder)
    named = copy.deepcopy(composed)
    named.output, named.name = str(folder), old["name"]
    new, keys = to_run_config(named), overridden_keys(words)
    raw = dict(leaves(OmegaConf.to_container(named)))
    said = {key: value for key, value in leaves(new) if is_overridden(key, str(raw.get(key)), keys)}
    found = {key for key, value in said.items() if key in AUTO and value == "auto"}  # by the run, when it began
    changes = {key: value for key, value in said.items() if key not in found and value != select(old, key)}
    check_free(changes, old, folder)
    for key in replaced(old, new, keys, words):
        remove(old, key)
    for key, value in changes.items():
        set_value(old, key, value)
    merged = {**old, "output": str(folder), "resume": None}
    check_untrusted_config(merged, {*keys, *said})
    return merged, set(changes)


def check_free(changes: Mapping[str, Any], old: Mapping[str, Any], folder: Path) -> None:
    """Raise a ConfigError if a change would make it another training."""
    held = {key: value for key, value in changes.items() if not is_free(key)}
    if held:
        said = "; ".join(
            f"{key}={value}, where the run has {format_value(select(old, key))}" for key, value in held.items()
        )
        raise ConfigError(
            f"a training that goes on cannot have {said}. It may have another trainer.max_epochs, other devices, "
            f"another data.root, other loggers, callbacks and checkpoint settings. For a new training that begins with "
            f"its weights: init_from={folder}"
        )


def replaced(old: Any, new: Any, keys: Sequence[str], words: Sequence[str]) -> list[str]:
    """Callbacks and loggers of the run that the words take away, or replace by others."""
    deleted = [word.lstrip("~").partition("=")[0] for word in words if word.startswith("~")]
    others = [f"{group}.{name}" for group in ("logger", "callbacks") if group in keys for name in old[group] or ()]
    return [key for key in (*deleted, *others) if is_free(key) and (key in deleted or select(new, key) is MISSING)]


def format_value(value: Any) -> str:
    """A value for a message."""
    return "no such setting" if value is MISSING else str(value)


def override_strings(words: Sequence[str | DictConfig]) -> list[str]:
    """The words of a command, on the command line or in Python.

    Raises:
        ConfigError: a config that was composed before: which words it came from is not in it.
    """
    if words and isinstance(words[0], DictConfig):
        if not HydraConfig.initialized():
            raise ConfigError("resume needs the words themselves: finetune.train('resume=...', ...), not one config.")
        return list(HydraConfig.get().overrides.task)
    return [str(word) for word in words]


def overridden_keys(words: Sequence[str]) -> list[str]:
    """Dotted names of the settings and groups that the words set.

    >>> overridden_keys(["trainer.max_epochs=3", "+logger.mine=1", "average=ema", "resume=auto"])
    ['trainer.max_epochs', 'logger.mine', 'callbacks.average']
    """
    parsed = OverridesParser.create().parse_overrides(list(words))
    keys = []
    for override in parsed:
        key = override.key_or_group.partition("@")[0]
        if key == "experiment":
            keys += experiment_keys(str(override.value()))
        elif key not in SETTLED and not override.is_delete():
            keys.append(PACKAGES.get(key, key))
    return keys


def experiment_keys(name: str) -> list[str]:
    """Dotted names of what an experiment sets.

    Raises:
        ConfigError: an experiment of the user's own folder, whose file is not known here.
    """
    path = config_folder() / "experiment" / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError(f"resume reads the config of its run; leave experiment={name} out.")
    content: Any = OmegaConf.to_container(OmegaConf.load(path))
    groups = [entry for entry in content.pop("defaults", ()) if isinstance(entry, dict)]
    chosen = [key.removeprefix("override").strip(" /") for entry in groups for key in entry]
    return [PACKAGES.get(key, key) for key in (*chosen, *(key for key, _ in leaves(content))) if key not in SETTLED]


def is_overridden(key: str, raw: str, keys: Sequence[str]) -> bool:
    """Whether a setting is among the named ones, or takes its value from one of them.

    >>> is_overridden("a.b", "1", ["a"]), is_overridden("c", "${a.b}", ["a.b"]), is_overridden("ab", "1", ["a"])
    (True, True, False)
    """
    return any(key == name or key.startswith(f"{name}.") or f"${{{name}" in raw for name in keys)


def is_free(key: str) -> bool:
    """Whether a training that goes on may have a setting otherwise.

    >>> is_free("trainer.max_epochs"), is_free("callbacks.average.decay"), is_free("optimizer.lr")
    (True, False, False)
    """
    return any(is_under(key, name) for name in FREE) and not any(is_under(key, name) for name in HELD)


def is_under(key: str, name: str) -> bool:
    """Whether a setting is of that name, or in the group of that name."""
    return key == name or key.startswith(f"{name}.")


def leaves(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of all settings that are no groups of further ones.

    >>> list(leaves({"a": {"b": 1, "c": {}}, "d": [2]}))
    [('a.b', 1), ('a.c', {}), ('d', [2])]
    """
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def select(values: Any, key: str) -> Any:
    """The value of a dotted name; `MISSING` if there is none."""
    for name in key.split("."):
        values = values.get(name, MISSING) if isinstance(values, dict) else MISSING
    return values


def set_value(values: dict[str, Any], key: str, value: Any) -> None:
    """Set the value of a dotted name."""
    *groups, name = key.split(".")
    for group in groups:
        if not isinstance(values.get(group), dict):
            values[group] = {}
        values = values[group]
    values[name] = value


def remove(values: dict[str, Any], key: str) -> None:
    """Take a dotted name away."""
    group, _, name = key.rpartition(".")
    inside = select(values, group) if group else values
    if isinstance(inside, dict):
        inside.pop(name, None)
