"""What there is to choose from: `finetune list`."""

from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from typing import Any

from omegaconf import DictConfig

from finetune.catalog.backbones import Entry, entries, select
from finetune.config.compose import config_folder, load_config
from finetune.config.errors import ConfigError, usage
from finetune.io.messages import format_table, suggest

FILTERS = ("parameters", "strides", "license", "input_size", "pretrained", "head")


def list_choices(*words: str | DictConfig) -> list[str]:
    """Print a table of the backbones or heads that fit; their names.

    Args:
        words: as of `finetune list`, or one composed config.

    Raises:
        ConfigError: nothing of that kind to list, or a filter that does not suit it.
    """
    config = load_config(words, "list")
    kinds: dict[str, Callable[[dict[str, Any]], list[str]]] = {"backbones": _backbones, "heads": _heads}
    if config["what"] not in kinds:
        raise ConfigError(f"'{config['what']}' cannot be listed. Say finetune list backbones, or finetune list heads.")
    return kinds[config["what"]](config)


def _backbones(config: dict[str, Any]) -> list[str]:
    filters = {key: config[key] for key in FILTERS}
    if filters["head"] is not None and filters["head"] not in heads():
        raise ConfigError(f"head={filters['under']}: no such head. {suggest(str(filters['under']), list(heads()))}")
    with usage():
        found = select(str(config["name"]), **filters)
    if found:
        rows = [row for entry in found for row in backbone_rows(entry, whole=len(found) == 1)]
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
    if given := [key for key in FILTERS if config[key] is not None]:
        raise ConfigError(f"{given[0]} is said of backbones. Say finetune list backbones, or leave it out.")
    found = {name: line for name, line in heads().items() if fnmatchcase(name, str(config["name"]))}
    if found:
        print(format_table([("head", "what it is"), *found.items()]))
    print(f"{len(found)} of {len(heads())} heads; head=NAME takes one")
    return list(found)


def heads() -> dict[str, str]:
    """What each head is: the first line of its file in `conf/head/`."""
    files = sorted((config_folder() / "head").glob("*.yaml"))
    return {file.stem: file.read_text().partition("\n")[0].removeprefix("# ") for file in files}


def backbone_rows(entry: Entry, whole: bool = False) -> Iterator[tuple[str, ...]]:
    """One row for a backbone, with its first weights and how many there are besides; or one for each weights."""
    described = (entry.name, f"{entry.parameters / 1e6:.1f} M", " ".join(map(str, entry.strides)))
    if not entry.weights:
        yield (*described, "none", "", "")
    for number, weights in enumerate(entry.weights if whole else entry.weights[:1]):
        more = f" (+{len(entry.weights) - 1})" if not whole and len(entry.weights) > 1 else ""
        shown = described if number == 0 else ("", "", "")
        yield (*shown, (weights.tag or "-") + more, str(weights.size), weights.license)
