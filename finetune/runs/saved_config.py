"""Read the config of a run folder."""

from pathlib import Path
from typing import Any

import yaml

from finetune.config.errors import ConfigError
from finetune.io.safe_files import FileError, check_links, check_plain, inside, read_json, read_text

FACTS = ("ignore_index", "mask_values", "snap", "value_range", "instances", "divisor")  # of a group `data`
# settings of callbacks and loggers that name where files are written
PLACES = {"save_dir", "root_dir", "dir", "dirpath", "log_dir", "exclude_batches_path", "default_root_dir"}
PLACES |= {"tracking_uri", "artifact_location"}
# W&B's link to its log in the cache of the user who trained; a resumed run gets its own folder and link
OUTER_LOG = "wandb/*run-*/logs/debug-core.log"


def read_config(folder: Path) -> dict[str, Any]:
    """Read `config.yaml` of a run folder, which may be from an untrusted source.

    Paths of the config that are inside its `output` folder are changed to where the run folder is now.

    Raises:
        ConfigError: the file is missing or no small plain YAML, or the folder has links out of it, through which a
            resumed run would write.
    """
    path = folder / "config.yaml"
    try:
        check_links(folder, OUTER_LOG)
        config = yaml.load(read_text(inside(path, folder)), _PlainLoader)
        check_plain(config, path)
    except (FileError, yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(str(error) if isinstance(error, FileError) else f"'{path}' is no YAML: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("output"), str):
        raise ConfigError(f"'{path}' is not the config of a training: it has no output.")
    for group in ("callbacks", "logger"):
        config[group] = _moved(config.get(group), Path(config["output"]), folder)
    return {**config, "output": str(folder)}


def data_facts(folder: Path) -> dict[str, Any]:
    """Return what a finished model holds about the data of its training, from the config of the run; see `read_config`.

    Checkpoints and adapters do not hold it.
    """
    config = read_config(folder)
    data: dict[str, Any] = config.get("data") or {}
    facts = {name: data[name] for name in FACTS if name in data}
    finds_objects = (config.get("task") or {}).get("name") == "instance"
    path = folder / "data.json"
    if finds_objects and path.is_file():  # whose masks have a background that the model has no class for
        facts["classes"] = read_json(path).get("classes")
    return facts


class _PlainLoader(yaml.SafeLoader):
    """YAML without merge keys, with which a few lines can take all memory."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Leave a merge key as it is; no constructor accepts it."""


def _moved(settings: Any, old: Path, new: Path, name: str = "") -> Any:
    """Return settings with the paths below one folder changed to another folder."""
    if isinstance(settings, dict):
        return {key: _moved(value, old, new, key) for key, value in settings.items()}
    if name in PLACES and isinstance(settings, str) and Path(settings).is_relative_to(old):
        return str(new / Path(settings).relative_to(old))
    return settings
