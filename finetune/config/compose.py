"""Words become a config: composed by Hydra, every mistake reported at once, translated into plain arguments."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ValueType
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from finetune.config.errors import ConfigError, Mistakes
from finetune.io.messages import suggest

COMMANDS = ("train", "plan", "evaluate", "predict", "list")


def config_folder() -> Path:
    """Where the YAML files are: next to the code once installed, at the top of a checkout before."""
    here = Path(__file__).resolve().parents[1]
    return here / "conf" if (here / "conf").is_dir() else here.parent / "conf"


def compose(*words: str, command: str = "train") -> DictConfig:
    """The config of a command, from the same words as on the command line.

    Args:
        words: Hydra overrides, such as `data=folder` or `optimizer.lr=3e-4`.
        command: one of `COMMANDS`.

    Raises:
        ConfigError: a word that does not fit; the nearest ones are shown.

    >>> compose("backbone=resnet50", "seed=3").backbone.name
    'resnet50.a1_in1k'
    """
    check_group_choices(words)
    running = GlobalHydra.instance().hydra  # of the command that runs, or of a notebook's own
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            as_composed: DictConfig = hydra_compose(command, list(words))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error, command, words)) from error
    finally:
        GlobalHydra.instance().hydra = running
    return as_composed


@cache
def packaged_options(group: str) -> dict[str, dict[str, Any]]:
    """The settings of every answer to a question in `conf/`, by the answer's name, with interpolations as written."""
    read = {path.stem: OmegaConf.load(path) for path in sorted((config_folder() / group).glob("*.yaml"))}
    return {name: OmegaConf.to_container(settings) for name, settings in read.items()}  # type: ignore[misc]  # groups


def check_group_choices(words: Sequence[str]) -> None:
    """Raise a ConfigError, with all that it finds, where a group gets something else than one of its answers."""
    mistakes = Mistakes()
    elsewhere = any(word.startswith("hydra.searchpath=") for word in words)  # answers of the user's own
    for word in words:
        group, _, answer = word.partition("=")
        if group not in _groups() or answer == "null":
            continue
        if not re.fullmatch(r"[A-Za-z_][\w/.-]*", answer):
            mistakes.add(f"'{word}': {group} takes the name of one answer: {', '.join(_answers(group))}.")
        elif not elsewhere and answer not in _answers(group):
            mistakes.add(_no_such_answer(group, answer))
    mistakes.raise_any()


def first_sweep_job(words: Sequence[str]) -> list[str]:
    """The words of a sweep's first job.

    >>> first_sweep_job(["seed=1,2", "name=a"])
    ['seed=1', 'name=a']

    Raises:
        ConfigError: a word that cannot be read.
    """
    try:
        parsed = OverridesParser.create().parse_overrides(list(words))
    except HydraException as error:
        raise ConfigError(explain(error, "train")) from error
    first = []
    for word, override in zip(words, parsed, strict=True):
        if not override.is_sweep_override():
            first.append(word)
        elif override.value_type != ValueType.GLOB_CHOICE_SWEEP:  # which answers match is for Hydra to find
            first.append(f"{word.partition('=')[0]}={next(iter(override.sweep_string_iterator()))}")
    return first


def explain(error: Exception, command: str, words: Sequence[str] = ()) -> str:
    """What a composition error means, with the nearest names that there are.

    Args:
        error: what Hydra raised.
        command: whose config it is.
        words: that were to be composed; the answers among them decide which names there are.
    """
    text = str(error).strip()
    if isinstance(error, OverrideParseException):
        return (
            f"'{error.override}' cannot be read: {text.splitlines()[0]}. Words are key=value; quote lists in the shell."
        )
    cause = str(error.__cause__ or "").strip().splitlines()
    if key := re.match(r"Could not (?:override|append|delete).*?'([^']+)'", text):
        answers = [word for word in words if word.partition("=")[0] in _groups()]
        inside = re.search(r"full_key: (\S+)", str(error.__cause__))
        if inside and inside[1] != key[1] and inside[1].startswith(f"{key[1]}."):  # a group given as a whole
            return f"{key[1]} has no setting '{inside[1]}'. To add it all the same: +{inside[1]}=..."
        return (
            f"there is no setting '{key[1]}'. {suggest(key[1], _keys(command, answers))} {_append_hint(text)}".rstrip()
        )
    if option := re.search(r"Could not find '([^']+)'", text):
        group, _, name = option[1].rpartition("/")
        if not group or not _answers(group):
            return f"there is no group '{group or name}'. {suggest(group or name, _groups())}"
        return _no_such_answer(group, name)
    if group_match := re.search(r"Could not override '([^']+)'.*No match in the defaults list", text, re.DOTALL):
        return f"there is no group '{group_match[1]}'. {suggest(group_match[1], _groups())}"
    return " ".join([text, *cause[:1]])


def _no_such_answer(group: str, name: str) -> str:
    answers = _answers(group)
    extra = " Any other model of timm: backbone=timm backbone.name=NAME." if group == "backbone" else ""
    return f"{group} has no option '{name}'. {suggest(name, answers)} There are {', '.join(answers)}.{extra}"


def _append_hint(text: str) -> str:
    plus = re.search(r"To append to your config use (\S+)", text)
    return f"To add it all the same: {plus[1]}" if plus else ""


def _groups() -> list[str]:
    return sorted(path.name for path in config_folder().iterdir() if path.is_dir() and path.name != "hydra")


def _answers(group: str) -> list[str]:
    return sorted(path.stem for path in (config_folder() / group).glob("*.yaml"))


def _keys(command: str, answers: Sequence[str]) -> list[str]:
    try:
        return list(flat(OmegaConf.to_container(compose(*answers, command=command))))
    except ConfigError:  # one of the answers is wrong as well
        return list(flat(OmegaConf.to_container(compose(command=command))))


def flat(values: Any, prefix: str = "") -> Iterator[str]:
    """Dotted names of all entries, groups and leaves.

    >>> list(flat({"a": {"b": 1}, "c": 2}))
    ['a', 'a.b', 'c']
    """
    for key, value in values.items() if isinstance(values, dict) else ():
        yield f"{prefix}{key}"
        yield from flat(value, f"{prefix}{key}.")


def to_plain_dict(config: DictConfig) -> dict[str, Any]:
    """The config as plain lists, dicts, numbers and strings, every reference resolved.

    Raises:
        ConfigError: a value that is missing, or a reference that leads nowhere.
    """
    try:
        content = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from error
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def load_config(words: Sequence[str | DictConfig], command: str) -> dict[str, Any]:
    """The plain config of a command, from its words or from one composed config."""
    return to_run_config(as_composed(words, command))


def as_composed(words: Sequence[str | DictConfig], command: str) -> DictConfig:
    """The config of a command as Hydra composes it, from its words or composed already."""
    if len(words) == 1 and isinstance(words[0], DictConfig):
        return words[0]
    return compose(*map(str, words), command=command)


def to_run_config(config: DictConfig) -> dict[str, Any]:
    """The config as plain data; the data's folder is made absolute, so that the run can be used from anywhere later."""
    values = to_plain_dict(config)
    if (values.get("data") or {}).get("root"):
        values["data"]["root"] = str(Path(values["data"]["root"]).expanduser().resolve())
    return values


def required(config: Mapping[str, Any], key: str) -> str:
    """The value of a key that the command cannot do without.

    Raises:
        ConfigError: it is not set.
    """
    if not config[key]:
        raise ConfigError(f"{key} is not set. Say {key}=...")
    return str(config[key])
