"""The run folder: created once everything has been checked, with the config, the environment and the log in it."""

import errno
import json
import logging
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
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
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)
TIME_FORMAT = "%Y-%m-%d %H:%M:%S"
RECORDED_DISTRIBUTIONS = (
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
    """Raise a ConfigError if the folder is not empty, or cannot be made.

    Args:
        folder: to be written to.
        key: setting that names it, for the message.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            f"{key}='{folder}' exists and is not empty; nothing is ever overwritten. Name another folder, or remove it."
        )
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:  # the only way to know: permissions do not tell of file systems such as /proc
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"'{folder}' cannot be written to: {error.strerror}. Name another {key}.") from error
    finally:
        for path in missing:
            with suppress(OSError):
                path.rmdir()


def open_run_folder(
    folder: Path, config: Mapping[str, Any], resumed: bool = False, overrides: Sequence[str] = ()
) -> None:
    """Create the folder with `config.yaml`, `env.json` and an open `train.log`, or open that of a resumed run.

    Args:
        folder: of the run.
        config: of the training.
        resumed: whether the run is there already.
        overrides: of the command, or of the call in Python.

    Raises:
        ConfigError: it cannot be written to, or another process trains in it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _open_log(folder)
    except OSError as error:
        move = "Copy the run to a folder you may write to, and resume that" if resumed else "Name another output"
        raise ConfigError(f"'{folder}' cannot be written to: {error.strerror}. {move}.") from error
    try:
        replace_text(folder / "config.yaml", yaml.safe_dump(dict(config), sort_keys=False))
        _note_environment(folder, environment(int(config["seed"]), overrides), resumed)
    except BaseException:
        close_log(folder)
        raise


def _note_environment(folder: Path, now: dict[str, Any], resumed: bool) -> None:
    if not resumed:
        return write_environment(folder, now)
    now["at"] = time.strftime(TIME_FORMAT)
    recorded = read_environment(folder)
    write_environment(folder, {**recorded, "resumed": [*_resumptions(recorded), now], "finished": None})


def _open_log(folder: Path) -> None:
    log = logging.FileHandler(folder / "train.log", encoding="utf-8")
    assert log.stream is not None  # open, as no delay was asked for
    if not _lock(log.stream):
        log.close()
        raise ConfigError(f"another process trains in '{folder}'. Wait until it ends, or name another output.")
    log.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger("finetune").addHandler(log)


def mark_finished(folder: Path) -> None:
    """Record that a run is complete."""
    write_environment(folder, {**read_environment(folder), "finished": time.strftime(TIME_FORMAT)})


def is_finished(folder: Path) -> bool:
    """Return whether a run is complete."""
    return (folder / "env.json").is_file() and bool(read_environment(folder).get("finished"))


def read_environment(folder: Path) -> dict[str, Any]:
    """Return the content of `env.json`; nothing if it is corrupt, with one warning."""
    path = folder / "env.json"
    try:
        content = read_json(path, LONGEST_TEXT)  # a command line may be one long string
        if not isinstance(content, dict):
            raise FileError(path, f"it is a {type(content).__name__}; expected a group of facts.")
    except FileError as error:
        _warn_once(f"{error} The run counts as not finished.")
        return {}
    return content


@cache
def _warn_once(text: str) -> None:
    logger.warning(text)


def _resumptions(content: Mapping[str, Any]) -> list[Any]:
    resumed = content.get("resumed")
    return resumed if isinstance(resumed, list) else []


def write_environment(folder: Path, content: Mapping[str, Any]) -> None:
    """Write `env.json`, without the oldest resumptions if it would exceed the size that is read."""
    while len(text := json.dumps(content, indent=2) + "\n") > LONGEST_TEXT and (earlier := _resumptions(content)):
        content = {**content, "resumed": earlier[1:]}
    replace_text(folder / "env.json", text)


def is_running(folder: Path) -> bool:
    """Return whether a process on this machine trains in the folder."""
    path = folder / "train.log"
    if not path.is_file():
        return False
    with path.open() as file:  # for reading, which works in a read-only folder
        return not _lock(file, shared=True)


def _lock(file: TextIO, shared: bool = False) -> bool:
    """Lock a file until it is closed or the process ends.

    Args:
        file: open for writing, unless `shared`.
        shared: whether other shared locks are compatible.

    Returns:
        False if another process holds it.
    """
    if fcntl is None:
        return True
    try:
        # a lock of the process, unlike flock: loading workers that outlive a killed process for seconds hold nothing
        fcntl.lockf(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN)  # some network file systems cannot lock
    return True


def close_log(folder: Path, error: BaseException | None = None) -> None:
    """Close the run's log, so that the next run of this process does not write to it.

    Args:
        folder: of the run.
        error: the exception that ended the run; written to the log only, as the caller shows it.
    """
    for handler in list(logging.getLogger("finetune").handlers):
        if isinstance(handler, logging.FileHandler) and Path(handler.baseFilename).resolve().parent == folder.resolve():
            if error is not None:
                text = f"failed: {type(error).__name__}: {error}"
                handler.emit(logging.makeLogRecord({"msg": text, "levelname": "ERROR", "levelno": logging.ERROR}))
            logging.getLogger("finetune").removeHandler(handler)
            handler.close()


def environment(seed: int, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return versions, command, code revision and hardware: all that is needed to repeat a run."""
    return {
        "command": sys.argv,
        "overrides": list(overrides),
        "seed": seed,
        "git": revision(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in RECORDED_DISTRIBUTIONS},
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def revision() -> str | None:
    """Return the commit of the working folder, with a `+` if files differ from it; None outside a repository."""
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changes = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if changes.strip() else "")


def run_folder(path: Path) -> Path | None:
    """Return the run that a run folder, model folder or checkpoint belongs to; None for a model on its own."""
    candidates = (path, path.parent, path.parent.parent)
    return next((c for c in candidates if (c / "config.yaml").is_file() and (c / "env.json").is_file()), None)


def check_output(output: str | None) -> None:
    """Raise a ConfigError if a folder that `output` names is not empty, or cannot be made."""
    if output:
        check_new(Path(output))


def output_folder(output: str | None, default: Path) -> Path:
    """Return the folder that `output` names; without one, the default, with a number if it is there already."""
    return Path(output) if output else free_folder(default)


def free_folder(folder: Path) -> Path:
    """Return the folder, or the first of `folder_2`, `folder_3`, ... that does not exist."""
    numbered = (folder.with_name(f"{folder.name}_{number}") for number in range(2, 10_000))
    return folder if not folder.exists() else next(path for path in numbered if not path.exists())
