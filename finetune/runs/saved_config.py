"""Read the config of a run folder."""

from pathlib import Path
from typing import Any

import yaml

from finetune.config.errors import ConfigError
from finetune.io.safe_files import FileError, check_links, check_plain, inside, read_text


def read_config(folder: Path) -> dict[str, Any]:
    """The `config.yaml` of a run folder, which may come from a stranger, with the places in it where the folder is now.

    Raises:
        ConfigError: no such file, one that is no small plain YAML, or a folder that has links out of it: a training
            that goes on would write through them.
    """
    path = folder / "config.yaml"
    try:
        check_links(folder, OUTER_LOG)
        config = yaml.load(read_text(inside(path, folder)), _Plain)
        check_plain(config, path)
    except (FileError, yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(str(error) if isinstance(error, FileError) else f"'{path}' is no YAML: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("output"), str):
        raise ConfigError(f"'{path}' is not the config of a training: it has no output.")
    for group in ("callbacks", "logger"):
        config[group] = _moved(config.get(group), Path(config["output"]), folder)
    return {**config, "output": str(folder)}


class _Plain(yaml.SafeLoader):
    """YAML without merge keys, of which a few lines can stand for more than any memory holds."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Leave a merge key as it is; no constructor knows it."""


def _moved(settings: Any, old: Path, new: Path, name: str = "") -> Any:
    """Settings in which the places below one folder are below another."""
    if isinstance(settings, dict):
        return {key: _moved(value, old, new, key) for key, value in settings.items()}
    if name in PLACES and isinstance(settings, str) and Path(settings).is_relative_to(old):
        return str(new / Path(settings).relative_to(old))
    return settings


# settings of callbacks and loggers that say where files are written
PLACES = {"save_dir", "root_dir", "dir", "dirpath", "log_dir", "exclude_batches_path", "default_root_dir"}
PLACES |= {"tracking_uri", "artifact_location"}


# W&B's link to its own log in the cache of whoever trained; a run that goes on gets a folder and a link of its own
OUTER_LOG = "wandb/*run-*/logs/debug-core.log"
