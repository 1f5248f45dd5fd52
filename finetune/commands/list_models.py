"""The command `list`: backbones and heads to choose from."""

from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from typing import Any

from omegaconf import DictConfig

from finetune.catalog.backbones import Entry, entries, select
from finetune.commands.list_suggestions import list_suggestions
from finetune.config.compose import load_config
from finetune.config.errors import ConfigError, usage
from finetune.config.folder import config_folder
from finetune.io.messages import format_table

FILTERS = ("parameters", "strides", "license", "input_size", "pretrained", "with_head")


def list_models(*overrides: str | DictConfig) -> list[str]:
    """Print a table of the backbones or heads that match, and return their names.

    Args:
        overrides: of `finetune list`; or one composed config.

    Raises:
        ConfigError: something else to list, or a filter that does not apply to it.
    """
    config = load_config(overrides, "list")
    kinds: dict[str, Callable[[dict[str, Any]], list[str]]] = {"backbones": _backbones, "heads": _heads}
    if config["what"] not in kinds:
        raise ConfigError(
            f"'{config['what']}' cannot be listed. Choose finetune list backbones, or finetune list heads."
        )
    return kinds[config["what"]](config)


def _backbones(config: dict[str, Any]) -> list[str]:
    with usage():
        found = select(str(config["name"]), **{key: config[key] for key in FILTERS})
    if config["for"] is not None:
        return list_suggestions(str(config["for"]), found)
    if found:
        rows = [row for entry in found for row in backbone_rows(entry, all_weights=len(found) == 1)]
        print(format_table([("backbone", "parameters", "strides", "weights", "pixels", "license"), *rows]))
    print(f"{len(found):,} of {len(entries()):,} backbones{_hint(str(config['name']), bool(found))}")
    return [entry.name for entry in found]


def _hint(pattern: str, found: bool) -> str:
    if found:
        return "; backbone=timm backbone.name=NAME takes one, NAME.WEIGHTS with other weights than its first"
    if pattern.isidentifier():
        return f". '*{pattern}*' would be those with {pattern} in their name"
    return ""


def _heads(config: dict[str, Any]) -> list[str]:
    if given := [key for key in (*FILTERS, "for") if config[key] is not None]:
        raise ConfigError(f"{given[0]} filters backbones only. Use finetune list backbones, or leave it out.")
    found = {name: line for name, line in heads().items() if fnmatchcase(name, str(config["name"]))}
    if found:
        print(format_table([("head", "description"), *found.items()]))
    print(f"{len(found)} of {len(heads())} heads; head=NAME takes one")
    return list(found)


def heads() -> dict[str, str]:
    """Return the name of each head and what it is: the first line of its file in `conf/head/`."""
    files = sorted((config_folder() / "head").glob("*.yaml"))
    return {file.stem: file.read_text().partition("\n")[0].removeprefix("# ") for file in files}


def backbone_rows(entry: Entry, all_weights: bool = False) -> Iterator[tuple[str, ...]]:
    """Yield one row for a backbone, with its first weights and the number of others; or one row for each weights."""
    described = (entry.name, f"{entry.parameters / 1e6:.1f} M", " ".join(map(str, entry.strides)))
    if not entry.weights:
        yield (*described, "none", "", "")
    for number, weights in enumerate(entry.weights if all_weights else entry.weights[:1]):
        more = f" (+{len(entry.weights) - 1})" if not all_weights and len(entry.weights) > 1 else ""
        shown = described if number == 0 else ("", "", "")
        yield (*shown, (weights.tag or "-") + more, str(weights.size), weights.license)
