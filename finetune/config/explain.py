"""Explain Hydra's errors, with the nearest names that there are."""

import re
from collections.abc import Sequence

from hydra.errors import HydraException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from finetune.config.composition import compose_with_hydra
from finetune.config.errors import raise_mistakes
from finetune.config.folder import BASE, groups, options
from finetune.config.nested import walk
from finetune.config.unread import may_be_added, meant_setting
from finetune.io.messages import suggest

SEVERAL = ("post",)  # groups of which several options are composed, in the order of a list


def check_group_choices(overrides: Sequence[str], is_sweep: bool = False) -> None:
    """Raise a ConfigError, with all that it finds, if a group is set to something else than one of its options.

    Args:
        overrides: of a command.
        is_sweep: whether a list of options with commas stands for a job for each.
    """
    mistakes = []
    has_own_options = any(text.startswith("hydra.searchpath=") for text in overrides)
    for text in overrides:
        group, _, option = text.partition("=")
        if group not in groups() or (is_sweep and not re.fullmatch(r"[\w/.,-]+", option)):
            continue  # Hydra knows further forms of a sweep
        if is_sweep and "," in option:
            unknown = [name for name in option.split(",") if name not in options(group)]
            mistakes += [] if has_own_options else [_no_such_option(group, name) for name in unknown]
            continue
        if group in SEVERAL and option[:1] + option[-1:] == "[]":
            names = [name.strip().strip("'\"") for name in option[1:-1].split(",") if name.strip()]
            unknown = [name for name in names if name not in options(group)]
            mistakes += [] if has_own_options else [_no_such_option(group, name) for name in unknown]
        elif not re.fullmatch(r"[A-Za-z_][\w/.-]*", option):
            what = "options in their order, such as [smooth,min_size]" if group in SEVERAL else "the name of one option"
            mistakes.append(f"'{text}': {group} takes {what}: {', '.join(options(group))}.")
        elif not has_own_options and option not in options(group):
            mistakes.append(_no_such_option(group, option))
    raise_mistakes(mistakes)


def explain(error: Exception, command: str, overrides: Sequence[str] = ()) -> str:
    """Return what an error of Hydra means, with the nearest names.

    Args:
        error: raised by Hydra or OmegaConf while composing.
        command: whose config was composed.
        overrides: that were composed; the options among them decide which names there are.
    """
    text = str(error).strip()
    if isinstance(error, OverrideParseException):
        if re.search(r"\{[^}]*[^\x00-\x7f]", str(error.override)):
            return (
                f"'{error.override}' cannot be parsed: names in a mapping have ASCII letters only. Give names and "
                f"values as lists: data.classes=[Straße,Himmel] data.mask_values=[7,23]"
            )
        return (
            f"'{error.override}' cannot be parsed: {text.splitlines()[0]}. Overrides are key=value; quote lists and "
            f"special characters in the shell."
        )
    if group_match := re.search(r"Multiple values for (\S+?)\.|^(\S+) appears more than once", text):
        return f"{group_match[1] or group_match[2]} is there already: leave out the +."
    if key := re.match(r"Could not (?:override|append|delete).*?'([^']+)'", text):
        return _no_such_setting(error, key[1], command, overrides)
    if option := re.search(r"Could not (?:find|load) '([^']+)'", text):
        group, _, name = option[1].rpartition("/")
        if not group or not options(group):
            return f"there is no group '{group or name}'. {suggest(group or name, groups())}"
        listed = text.partition("Config search path")[0]  # by Hydra, with those of the user's folders
        return _no_such_option(group, name, re.findall(r"^\t(\S+)$", listed, re.MULTILINE))
    cause = str(error.__cause__ or "").strip().splitlines()
    return " ".join([text, *cause[:1]])


def _no_such_setting(error: Exception, key: str, command: str, overrides: Sequence[str]) -> str:
    inner = re.search(r"full_key: (\S+)", str(error.__cause__))
    if inner and inner[1] != key and inner[1].startswith(f"{key}."):  # a group given as a whole
        append = f" To add it anyway: +{inner[1]}=..." if may_be_added(inner[1]) else ""
        return f"{key} has no setting '{inner[1]}'.{append}"
    if str(error).startswith("Could not append"):
        return f"{key} is there already: leave out the +."
    chosen = [text for text in overrides if text.partition("=")[0] in groups()]
    hint = re.search(r"To append to your config use (\S+)", str(error))
    append = f" To add it anyway: {hint[1]}" if hint and may_be_added(key) else ""
    return f"there is no setting '{key}'. {meant_setting(key, _keys(command, chosen))}{append}"


def _no_such_option(group: str, name: str, known: Sequence[str] = ()) -> str:
    known = [each for each in known if each != BASE] or options(group)
    extra = " Any other timm model: backbone=timm backbone.name=NAME." if group == "backbone" else ""
    near = suggest(name, known)
    all_options = f" Options: {', '.join(known)}." if near.startswith("Did you mean") else ""
    return f"{group} has no option '{name}'. {near}{all_options}{extra}"


def _keys(command: str, chosen: Sequence[str]) -> list[str]:
    """Return the dotted keys of a command's config, with the chosen options if they exist."""
    for overrides in (list(chosen), []):
        try:
            return [key for key, _ in walk(OmegaConf.to_container(compose_with_hydra(command, overrides)))]
        except (HydraException, OmegaConfBaseException):  # one of the options is wrong as well
            continue
    return []
