"""The run folder: made once everything has been checked, with the config, the circumstances and the log in it."""

import errno
import json
import logging
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

import torch
import yaml

from finetune.config.errors import ConfigError
from finetune.io.atomic_write import replace_text
from finetune.io.safe_files import LONGEST_TEXT, FileError, read_json

try:
    import fcntl
except ImportError:  # a system without it
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)
CLOCK = "%Y-%m-%d %H:%M:%S"
PACKAGES = (
    "finetune-seg",
    "torch",
    "timm",
    "segmentation-models-pytorch",
    "lightning",
    "hydra-core",
    "numpy",
    "pillow",
)


def check_new(folder: Path, key: str = "output") -> None:
    """Raise a ConfigError if the folder holds anything already."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            f"{key}='{folder}' exists and is not empty; nothing is ever overwritten. Name another folder, or remove it."
        )


def open_run_folder(folder: Path, config: Mapping[str, Any], again: bool = False) -> None:
    """Make the folder with `config.yaml`, `env.json` and an open `train.log`; or open that of a run that goes on.

    Raises:
        ConfigError: it cannot be written to, or another process trains in it just now.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _open_log(folder)
    except OSError as error:
        move = "Copy the run to where you may write, and resume that" if again else "Name another output"
        raise ConfigError(f"nothing can be written to '{folder}': {error.strerror}. {move}.") from error
    replace_text(folder / "config.yaml", yaml.safe_dump(dict(config), sort_keys=False))
    now = environment(int(config["seed"]))
    if not again:
        return note(folder, now)
    now["at"] = time.strftime(CLOCK)
    known = known_facts(folder)
    note(folder, {**known, "resumed": [*_resumptions(known), now], "finished": None})


def _open_log(folder: Path) -> None:
    log = logging.FileHandler(folder / "train.log")
    assert log.stream is not None  # open, as no delay was asked for
    if not _lock(log.stream):
        log.close()
        raise ConfigError(f"another process trains in '{folder}' just now. Wait for its end, or name another output.")
    log.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger("finetune").addHandler(log)


def finish(folder: Path) -> None:
    """Note that a run has done all that it was to do."""
    note(folder, {**known_facts(folder), "finished": time.strftime(CLOCK)})


def is_finished(folder: Path) -> bool:
    """Whether a run has done all that it was to do."""
    return (folder / "env.json").is_file() and bool(known_facts(folder).get("finished"))


def known_facts(folder: Path) -> dict[str, Any]:
    """What `env.json` holds; nothing where it is damaged, which is told once."""
    path = folder / "env.json"
    try:
        found = read_json(path, LONGEST_TEXT)  # a command may be one long word
        if not isinstance(found, dict):
            raise FileError(path, f"it is a {type(found).__name__}; expected a group of facts.")
    except FileError as error:
        _warn(f"{error} The run counts as not finished.")
        return {}
    return found


@cache
def _warn(text: str) -> None:
    logger.warning(text)


def _resumptions(facts: Mapping[str, Any]) -> list[Any]:
    found = facts.get("resumed")
    return found if isinstance(found, list) else []


def note(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write `env.json`, without its oldest resumptions where it would become longer than is read."""
    while len(text := json.dumps(facts, indent=2) + "\n") > LONGEST_TEXT and (earlier := _resumptions(facts)):
        facts = {**facts, "resumed": earlier[1:]}
    replace_text(folder / "env.json", text)


def is_running(folder: Path) -> bool:
    """Whether a process on this machine trains in the folder just now."""
    path = folder / "train.log"
    if not path.is_file():
        return False
    with path.open() as file:  # to read, which a folder that cannot be written to allows, too
        return not _lock(file, shared=True)


def _lock(file: TextIO, shared: bool = False) -> bool:
    """Hold a file until it is closed or the process ends, in whatever way; whether nobody else holds it.

    Args:
        file: open to write, unless `shared`.
        shared: with others that share it.
    """
    if fcntl is None:
        return True
    try:
        # of a process, unlike flock: the loading workers of a killed one, which live on for seconds, hold nothing
        fcntl.lockf(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN)  # some network file systems cannot lock
    return True


def close_log(folder: Path, error: BaseException | None = None) -> None:
    """Close the run's log, so that the next run of this process does not write to it.

    Args:
        folder: of the run.
        error: what ended the run, noted in the log alone; whoever called the run shows it.
    """
    for handler in list(logging.getLogger("finetune").handlers):
        if isinstance(handler, logging.FileHandler) and Path(handler.baseFilename).parent == folder.resolve():
            if error is not None:
                text = f"failed: {type(error).__name__}: {error}"
                handler.emit(logging.makeLogRecord({"msg": text, "levelname": "ERROR", "levelno": logging.ERROR}))
            logging.getLogger("finetune").removeHandler(handler)
            handler.close()


def environment(seed: int) -> dict[str, Any]:
    """Versions, command, code revision and hardware: what one needs to know to do it again."""
    return {
        "command": sys.argv,
        "seed": seed,
        "git": revision(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def revision() -> str | None:
    """Commit of the working folder, with a `+` if files differ from it; None outside a repository."""
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changes = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if changes.strip() else "")


def run_folder(path: Path) -> Path | None:
    """The run that a run folder, model folder or checkpoint belongs to; None for a model on its own."""
    homes = (path, path.parent, path.parent.parent)
    return next((home for home in homes if (home / "config.yaml").is_file() and (home / "env.json").is_file()), None)


def free_folder(folder: Path) -> Path:
    """The folder, or the first of `folder_2`, `folder_3`, ... that is not there yet."""
    taken = (folder.with_name(f"{folder.name}_{number}") for number in range(2, 10_000))
    return folder if not folder.exists() else next(path for path in taken if not path.exists())
