"""The config of a resumed run: its own, with the overrides that a resumed training may have."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from finetune.config.compose import to_run_config
from finetune.config.errors import ConfigError
from finetune.config.folder import config_folder
from finetune.config.nested import MISSING, is_under, leaves, remove, select, set_value
from finetune.config.overrides import readable, typed
from finetune.config.settings import AUTO
from finetune.runs.folder import read_environment
from finetune.runs.saved_config import read_config
from finetune.runs.untrusted_config import check_untrusted_config

# what a resumed training may change; with any other change it would be another training
CHANGEABLE = (
    *(
        "trainer.max_epochs",
        "trainer.max_steps",
        "trainer.max_time",
        "trainer.devices",
        "trainer.num_nodes",
        "trainer.accelerator",
    ),
    *("trainer.strategy", "trainer.precision", "trainer.deterministic", "trainer.log_every_n_steps"),
    *("data.root", "data.verify", "data.cache", "data.num_workers", "data.batch_size"),
    *("checkpoint", "logger", "callbacks", "tta"),
)
MONITORED = tuple(f"{group}.{name}" for group in ("checkpoint", "callbacks.checkpoint") for name in ("monitor", "mode"))
NOT_CHANGEABLE = ("callbacks.average", *MONITORED)  # their states are resumed
# what a run may keep in another way than it was typed: as it found it in files, or without batches that fill no step
FOUND = ("data", "backbone.weights", "head.weights", "trainer.limit_train_batches", "trainer.overfit_batches")
SET_BY_RUN = ("resume", "init_from", "output", "name")
GROUP_PACKAGES = {"average": "callbacks.average"}  # groups whose settings are elsewhere than their name says


def resumed_config(composed: DictConfig, overrides: Sequence[str], folder: Path) -> tuple[dict[str, Any], set[str]]:
    """Return the config of a run with the changes that the overrides make, and the keys of the changes.

    Overrides that repeat what the run has change nothing, so the command that started a run may be given again.

    Args:
        composed: config of the overrides.
        overrides: of the command.
        folder: of the run.

    Raises:
        ConfigError: with every change that would make it another training, and with every setting of the run's config
            that an untrusted source may have put there.
    """
    old = read_config(folder)
    named = copy.deepcopy(composed)
    named.output, named.name = str(folder), old["name"]
    new, keys = to_run_config(named), overridden_keys(overrides)
    raw = leaves(OmegaConf.to_container(named))
    given = {key: value for key, value in leaves(new).items() if is_overridden(key, str(raw.get(key)), keys)}
    found_by_run = {key for key, value in given.items() if value in ("auto", "largest") and key in AUTO}
    found_by_run |= {key for key in given if key.startswith("data.") and _is_default(key, given[key], keys)}
    found_by_run |= _typed_again(given, overrides, _command(folder))
    changes = {key: value for key, value in given.items() if key not in found_by_run and value != select(old, key)}
    removed = removed_keys(old, new, keys, overrides)
    check_changeable({**changes, **dict.fromkeys(removed, MISSING)}, old, folder)
    for key in removed:
        remove(old, key)
    changes |= _length_changes(changes, old["trainer"])
    if "trainer.max_epochs" in changes and "trainer.max_steps" not in changes:
        remove(old, "trainer.max_steps")  # a length in steps, such as that of a budget, would still end the training
    for key, value in changes.items():
        set_value(old, key, value)
    merged = {**old, "output": str(folder), "resume": None}
    # what the run has found is its own, unless it is what was given
    own = {key for key in found_by_run if given[key] != select(old, key)}
    check_untrusted_config(merged, {*keys, *given} - own)
    return merged, set(changes)


def _typed_again(given: Mapping[str, Any], overrides: Sequence[str], command: Sequence[str]) -> set[str]:
    """Return the settings that are typed as in the command that started a run, which may keep them in another way.

    Such as classes that were merged by the names of a legend, or the path of a file.

    Args:
        given: settings with the values of the overrides.
        overrides: of the command that resumes the run.
        command: words of the one that started it.
    """
    same, others = (
        overridden_keys([text for text in overrides if (text in command) == is_same]) for is_same in (True, False)
    )

    def is_among(key: str, names: Sequence[str]) -> bool:
        return any(is_under(key, name) for name in names)

    return {
        key
        for key in given
        if is_among(key, FOUND) and is_among(key, same) and not is_among(key, others) and not is_changeable(key)
    }


def _command(folder: Path) -> list[str]:
    """Return the overrides of the command or call that started a run."""
    recorded = read_environment(folder)  # with the overrides of a job of a sweep as Hydra writes them
    lists = [recorded.get(key) for key in ("overrides", "command")]
    return [str(word) for words in lists if isinstance(words, list) for word in words]


def _length_changes(changes: Mapping[str, Any], trainer: Mapping[str, Any]) -> dict[str, Any]:
    """Return what else a new length changes in a run whose length and validations are in steps.

    Args:
        changes: of the resumed run.
        trainer: settings of the run so far.
    """
    steps = trainer.get("max_steps", -1)
    if steps == -1 or steps is None:
        return {}
    if "trainer.max_epochs" in changes:  # validations that were spaced for the old length would miss the new end
        is_own = any(key in changes for key in ("trainer.check_val_every_n_epoch", "trainer.val_check_interval"))
        in_steps = trainer.get("check_val_every_n_epoch") is None and not is_own
        return {"trainer.check_val_every_n_epoch": 1, "trainer.val_check_interval": None} if in_steps else {}
    longest = changes.get("trainer.max_steps", steps)
    if longest == -1 or longest <= steps:
        return {}
    return {"trainer.max_epochs": -(-longest * trainer["max_epochs"] // steps)}  # at least as many as it takes


def _is_default(key: str, value: Any, keys: Sequence[str]) -> bool:
    """Return whether a setting is open in an option, such as `data=folder`, so that the run has worked it out."""
    return value in (None, "auto") and key not in keys


def check_changeable(changes: Mapping[str, Any], old: Mapping[str, Any], folder: Path) -> None:
    """Raise a ConfigError if a change would make it another training."""
    refused = {key: value for key, value in changes.items() if not is_changeable(key)}
    if refused:
        texts = [_change(key, value, old) for key, value in refused.items()]
        raise ConfigError(
            f"a resumed training cannot have {'; '.join(texts)}. It may change trainer.max_epochs, devices, "
            f"data.root, loggers, callbacks, and when and how many checkpoints are written. To start a new training "
            f"with its weights: {typed('init_from', folder)}"
        )


def removed_keys(old: Any, new: Any, keys: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """Return the settings of the run that the overrides delete, and what they replace by others.

    That is loggers, callbacks and the averaging of weights. A callback that is not changeable stays if all are deleted.
    """
    named = [text.lstrip("~").partition("=")[0] for text in overrides if text.startswith("~")]
    deleted = [each for key in named for each in _members(old, key) if select(old, each) is not MISSING]
    groups = [key for key in ("logger", "callbacks") if key in keys]
    others = [key for group in groups for key in _members(old, group) if select(new, key) is MISSING]
    averages = [key for key in ("callbacks.average",) if key in keys and select(new, key) in (MISSING, None)]
    return [*deleted, *others, *(key for key in averages if select(old, key) not in (MISSING, None))]


def _members(old: Any, key: str) -> list[str]:
    """Return the loggers, or the callbacks that may change, for these groups; else the key itself."""
    if key not in ("logger", "callbacks"):
        return [GROUP_PACKAGES.get(key, key)]
    return [member for name in old.get(key) or () if is_changeable(member := f"{key}.{name}")]


def _format(value: Any) -> str:
    return "no such setting" if value is MISSING else str(value)


def _change(key: str, value: Any, old: Mapping[str, Any]) -> str:
    return f"~{key}" if value is MISSING else f"{key}={value}, where the run has {_format(select(old, key))}"


def override_strings(overrides: Sequence[str | DictConfig]) -> list[str]:
    """Return the overrides of a command, on the command line or in Python.

    Raises:
        ConfigError: a config that was composed before, which does not hold its overrides.
    """
    found = known_overrides(overrides)
    if found is None:
        raise ConfigError("resume needs the overrides: finetune.train('resume=...', ...), not a composed config.")
    return found


def known_overrides(overrides: Sequence[str | DictConfig]) -> list[str] | None:
    """Return the overrides of a command, on the command line or in Python; None for a config composed before."""
    if overrides and isinstance(overrides[0], DictConfig):
        return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else None
    return [readable(str(text)) for text in overrides]


def overridden_keys(overrides: Sequence[str]) -> list[str]:
    """Return the dotted keys of the settings and groups that the overrides set.

    >>> overridden_keys(["trainer.max_epochs=3", "+logger.mine=1", "average=ema", "resume=auto"])
    ['trainer.max_epochs', 'logger.mine', 'callbacks.average']
    """
    keys = []
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.key_or_group.partition("@")[0]
        if key == "experiment":
            keys += experiment_keys(str(override.value()))
        elif key not in SET_BY_RUN and not override.is_delete():
            keys.append(GROUP_PACKAGES.get(key, key))
    return keys


def experiment_keys(name: str) -> list[str]:
    """Return the dotted keys that an experiment sets.

    Raises:
        ConfigError: an experiment whose file is not known here.
    """
    sources = HydraConfig.get().runtime.config_sources if HydraConfig.initialized() else ()
    folders = [config_folder(), *(Path(source["path"]) for source in sources if source["schema"] == "file")]
    paths = [path for folder in folders if (path := folder / "experiment" / f"{name}.yaml").is_file()]
    if not paths:
        raise ConfigError(f"resume reads the config of its run; leave experiment={name} out.")
    content: Any = OmegaConf.to_container(OmegaConf.load(paths[0]))
    groups = [entry for entry in content.pop("defaults", ()) if isinstance(entry, dict)]
    chosen = [key.removeprefix("override").strip(" /") for entry in groups for key in entry]
    return [GROUP_PACKAGES.get(key, key) for key in (*chosen, *leaves(content)) if key not in SET_BY_RUN]


def is_overridden(key: str, raw: str, keys: Sequence[str]) -> bool:
    """Return whether a setting is among the given keys, or takes its value from one of them.

    Args:
        key: dotted key of the setting.
        raw: its value with interpolations as written.
        keys: dotted keys of settings and groups.

    >>> is_overridden("a.b", "1", ["a"]), is_overridden("c", "${a.b}", ["a.b"]), is_overridden("ab", "1", ["a"])
    (True, True, False)
    """
    return any(is_under(key, name) or f"${{{name}" in raw for name in keys)


def is_changeable(key: str) -> bool:
    """Return whether a resumed training may change a setting.

    >>> is_changeable("trainer.max_epochs"), is_changeable("callbacks.average.decay"), is_changeable("optimizer.lr")
    (True, False, False)
    """
    return any(is_under(key, name) for name in CHANGEABLE) and not any(is_under(key, name) for name in NOT_CHANGEABLE)
