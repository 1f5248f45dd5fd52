"""Finds the run that a training goes on with, and the checkpoint that it goes on from."""

import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.checkpoints.checkpoint_io import find_corruption
from finetune.checkpoints.rotation import next_intact_checkpoint, numbered
from finetune.config.errors import ConfigError
from finetune.engine.rank_zero import broadcast_from_rank_zero, is_first_process
from finetune.io.safe_files import FileError, check_plain, read_pickle
from finetune.runs.folder import is_finished, is_running
from finetune.runs.saved_config import read_config

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ResumePoint:
    """A run that was not finished, and where it goes on.

    Attributes:
        folder: of the run.
        checkpoint: a whole one.
        state: what is in it, without its tensors being read.
    """

    folder: Path
    checkpoint: Path
    state: Mapping[str, Any]

    @property
    def step(self) -> int:
        """Optimizer steps that lie behind."""
        return int(self.state["global_step"])

    @property
    def epochs(self) -> int:
        """Whole epochs that lie behind."""
        return int(self.state["SegmentationData"]["epoch"])

    @property
    def waited(self) -> int:
        """Validations since the score that early stopping watches has improved."""
        states = (state for name, state in self.state["callbacks"].items() if name.startswith("EarlyStopping"))
        return max((int(state["wait_count"]) for state in states), default=0)

    @property
    def images_in_a_step(self) -> int:
        """Of all devices together."""
        return int(self.state["SegmentationData"]["images in a step"])


def find_resume_point(config: Mapping[str, Any], words: Sequence[str]) -> ResumePoint | None:
    """The run that `resume` speaks of; None where it says `auto` and there is none to go on with.

    Args:
        config: with `resume`, `name` and `output`.
        words: of the command; where they name an `output`, no other folder is meant.

    Raises:
        ConfigError: no run there, none that could go on, or one that was finished.
    """
    try:
        chosen = broadcast_from_rank_zero(lambda: _chosen(config, words))
    except RuntimeError as error:
        raise ConfigError(f"resume={config['resume']}: {error}") from error
    if chosen is None:
        return None
    found = ResumePoint(_run_of(Path(chosen).parent.parent), Path(chosen), read_checkpoint(Path(chosen)))
    if is_first_process():
        _warn_if_best_corrupt(found)
    return found


def _chosen(config: Mapping[str, Any], words: Sequence[str]) -> str | None:
    """The checkpoint that a training goes on from."""
    wanted, output = str(config["resume"]), Path(config["output"]).resolve()
    named = any(word.startswith("output=") for word in words)
    if "://" in wanted:
        raise ConfigError(f"resume={wanted}: expected a folder or a file. Fetch the run first, then name its folder.")
    if wanted == "auto":
        folder = newest_unfinished_run([output] if named else list(output.parent.glob("*/")), str(config["name"]))
        return None if folder is None else str(_newest(folder))
    found = _named(wanted)
    if named and output != found.parent.parent:
        raise ConfigError(
            f"output={config['output']}: a run goes on in its own folder, '{found.parent.parent}'. Leave output out."
        )
    return str(found)


def _named(wanted: str) -> Path:
    path = Path(wanted).expanduser().resolve()
    if path.is_dir():
        return _newest(path.parent if path.name == "checkpoints" else path)
    if not path.is_file():
        raise ConfigError(
            f"resume={wanted}: there is no such folder or file. Name a run folder, a checkpoint, or auto."
        )
    if found := find_corruption(path):
        other = next_intact_checkpoint(path)
        raise ConfigError(f"resume={wanted}: the file is damaged: {found}. Whole is: {other or 'none beside it'}.")
    folder, state = _run_of(path.parent.parent), read_checkpoint(path)
    if not state.get("exact", True):
        raise ConfigError(
            f"resume={wanted}: it was saved while gradients were accumulated, which no checkpoint holds, so a training "
            f"would not go on exactly. Go on from the last one: resume={folder}; or begin a new training with its "
            f"weights: init_from={path}"
        )
    return path


def _warn_if_best_corrupt(found: ResumePoint) -> None:
    """Say now that the best weights so far are lost, and not when they are wanted behind the last epoch."""
    best, saved = found.checkpoint.with_name(numbered("best", 0)), found.state.get("callbacks", {}).get("Checkpoint")
    if not saved or not saved.get("best") or (best.exists() and best.samefile(found.checkpoint)):
        return
    if wrong := find_corruption(best):
        other = next_intact_checkpoint(best)
        logger.warning(
            f"the best weights so far cannot be had from '{best}': {wrong}. Stop the training and put a whole file "
            f"there; without one it may have nothing to end with. The next that is whole: {other or 'none beside it'}."
        )


def newest_unfinished_run(folders: Sequence[Path], name: str) -> Path | None:
    """The newest run of a name that has a checkpoint, was not finished, and is not going on just now."""
    for folder in sorted(folders, key=_age, reverse=True):
        try:
            if _is_unfinished(folder, name):
                return folder
        except (ConfigError, OSError) as error:  # a folder of somebody else, perhaps
            logger.warning(f"'{folder}' is passed over: {error}")
    return None


def _is_unfinished(folder: Path, name: str) -> bool:
    if not checkpoints(folder / "checkpoints") or not (folder / "config.yaml").is_file() or is_finished(folder):
        return False
    # the first process of this training is there already where Lightning starts a further one
    return read_config(folder).get("name") == name and not (is_first_process() and is_running(folder))


def has_no_checkpoint(folder: Path) -> bool:
    """Whether a run was begun in the folder and ended before its first checkpoint: it may begin there again."""
    if not (folder / "config.yaml").is_file() or is_finished(folder) or is_running(folder):
        return False
    return not checkpoints(folder / "checkpoints")


def _age(folder: Path) -> float:
    try:
        return max((path.stat().st_mtime for path in checkpoints(folder / "checkpoints")), default=0.0)
    except OSError:  # a link to nowhere, or not to be looked into
        return 0.0


def checkpoints(folder: Path) -> list[Path]:
    """The last checkpoints, newest first."""
    found = [path for path in folder.glob("last*.ckpt") if re.fullmatch(r"last(_\d+)?\.ckpt", path.name)]
    return sorted(found, key=lambda path: int("".join(re.findall(r"\d+", path.name)) or 1))


def _run_of(folder: Path) -> Path:
    if not (folder / "config.yaml").is_file():
        raise ConfigError(
            f"resume: '{folder}' is no run folder, as it has no config.yaml. A checkpoint without its run gives its "
            f"weights to a new training by init_from=FILE."
        )
    return folder


def _newest(folder: Path) -> Path:
    """The newest checkpoint of a run that is whole and that a training can go on from."""
    found = checkpoints(_run_of(folder) / "checkpoints")
    for path in found:
        try:
            if wrong := find_corruption(path):
                raise ConfigError(f"'{path}' is damaged: {wrong}.")
            if read_checkpoint(path).get("exact", True):
                return path
        except ConfigError as error:
            logger.warning(f"{error} Going on from the one before it.")
    broken = f"all {len(found)} checkpoints in it are damaged, or from inside an accumulation"
    what = broken if found else "it ended before its first checkpoint"
    raise ConfigError(f"resume: '{folder}' cannot go on: {what}. Begin a new run without resume.")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What is in a checkpoint; its tensors are read when they are used.

    Raises:
        ConfigError: it is none of ours, or not safe to read.
    """
    try:
        content = read_pickle(path)
        check_plain(content.get("model_config") if isinstance(content, dict) else None, path, "model_config")
    except FileError as error:
        raise ConfigError(str(error)) from error
    if not isinstance(content, dict) or not {"made_by", "model_config", "SegmentationData", "loops"} <= set(content):
        raise ConfigError(f"'{path}' is no checkpoint of a training that could go on. Its weights: init_from={path}")
    return content


def resume_hints(folder: Path) -> list[str]:
    """What was saved of a run that ended too early, and how to go on with it.

    Never raises: it is said beside the error that ended the run.
    """
    found = checkpoints(folder / "checkpoints")
    for path in found:
        with suppress(Exception):  # damaged in a way that nobody has thought of, or of another program
            if find_corruption(path) is None:
                return _ways_on_from(path, read_checkpoint(path), folder)
    if found:
        return [f"none of the {len(found)} checkpoints in '{folder / 'checkpoints'}' can be gone on from"]
    return ["nothing was saved yet"] if folder.is_dir() else []


def _ways_on_from(path: Path, content: Mapping[str, Any], folder: Path) -> list[str]:
    epoch, step = content["SegmentationData"]["epoch"], content["global_step"]
    return [
        f"saved: {path}, {epoch} whole epochs, step {step:,}",
        f"go on: finetune train resume={folder}",
        f"or begin anew with these weights and other settings: init_from={path}",
    ]
