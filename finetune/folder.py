"""The run folder: made once everything has been checked, with the config, the circumstances and the log in it."""

import json
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch.utilities import rank_zero_only

from finetune.config import ConfigError

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


def make_run_folder(folder: Path, config: Mapping[str, Any]) -> None:
    """Make the folder with `config.yaml`, `env.json` and an open `train.log`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(dict(config), sort_keys=False))
    (folder / "env.json").write_text(json.dumps(environment(int(config["seed"])), indent=2) + "\n")
    log = logging.FileHandler(folder / "train.log")
    log.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger("finetune").addHandler(log)


def is_first_process() -> bool:
    """Whether this is rank 0 of all processes, by whoever started them: Lightning, torchrun or SLURM."""
    rank: int = rank_zero_only.rank  # type: ignore[attr-defined]  # set on the function
    return rank == 0


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
