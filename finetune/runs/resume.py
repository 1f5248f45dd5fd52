"""Find the run that a training resumes, and the checkpoint to resume it from."""

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
from finetune.config.overrides import typed
from finetune.engine.rank_zero import broadcast_from_rank_zero, is_first_process
from finetune.io.safe_files import FileError, check_plain, read_pickle
from finetune.runs.folder import is_finished, is_running
from finetune.runs.saved_config import read_config

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ResumePoint:
    """A run, and where it resumes.

    Attributes:
        folder: of the run.
        checkpoint: an intact file.
        state: content of the checkpoint, whose tensors are not read yet.
    """

    folder: Path
    checkpoint: Path
    state: Mapping[str, Any]

    @property
    def step(self) -> int:
        """Completed optimizer steps."""
        return int(self.state["global_step"])

    @property
    def epochs(self) -> int:
        """Completed epochs."""
        return int(self.state["SegmentationData"]["epoch"])

    @property
    def seconds(self) -> float:
        """Seconds trained by the timer of `trainer.max_time`; 0 without one."""
        elapsed = self.state["callbacks"].get("Timer", {}).get("time_elapsed", {})
        return float(elapsed.get("train", 0.0))

    @property
    def validations_without_improvement(self) -> int:
        """Validations since the score that early stopping monitors has improved."""
        states = (state for name, state in self.state["callbacks"].items() if name.startswith("EarlyStopping"))
        return max((int(state["wait_count"]) for state in states), default=0)

    @property
    def images_in_a_step(self) -> int:
        """Images that all devices together process in a step."""
        return int(self.state["SegmentationData"]["images in a step"])


def find_resume_point(config: Mapping[str, Any], overrides: Sequence[str]) -> ResumePoint | None:
    """Return the run that `resume` names; None if it is `auto` and there is no unfinished run.

    Args:
        config: with `resume`, `name` and `output`.
        overrides: of the command; if they name an `output`, `auto` looks in no other folder.

    Raises:
        ConfigError: no such run, a run that cannot be resumed, or a finished one.
    """
    try:
        checkpoint = broadcast_from_rank_zero(lambda: _find_checkpoint(config, overrides))
    except RuntimeError as error:
        raise ConfigError(f"resume={config['resume']}: {error}") from error
    if checkpoint is None:
        return None
    path = Path(checkpoint)
    point = ResumePoint(_check_run_folder(path.parent.parent), path, read_checkpoint(path))
    if is_first_process():
        _warn_if_best_corrupt(point)
    return point


def _find_checkpoint(config: Mapping[str, Any], overrides: Sequence[str]) -> str | None:
    """Return the path of the checkpoint to resume from."""
    target, output = str(config["resume"]), Path(config["output"]).resolve()
    names_output = any(text.startswith("output=") for text in overrides)
    if "://" in target:
        raise ConfigError(
            f"resume={target}: expected a folder or a file. Download the run first, then name its folder."
        )
    if target == "auto":
        candidates = [output] if names_output else list(output.parent.glob("*/"))
        folder = newest_unfinished_run(candidates, str(config["name"]))
        return None if folder is None else str(_newest_intact_checkpoint(folder))
    checkpoint = _named_checkpoint(target)
    run = checkpoint.parent.parent
    if names_output and output != run:
        raise ConfigError(f"output={config['output']}: a run is resumed in its own folder, '{run}'. Leave output out.")
    return str(checkpoint)


def _named_checkpoint(target: str) -> Path:
    path = Path(target).expanduser().resolve()
    if path.is_dir():
        return _newest_intact_checkpoint(path.parent if path.name == "checkpoints" else path)
    if not path.is_file():
        raise ConfigError(
            f"resume={target}: there is no such folder or file. Name a run folder, a checkpoint, or auto."
        )
    if corruption := find_corruption(path):
        other = next_intact_checkpoint(path)
        raise ConfigError(
            f"resume={target}: the file is corrupt: {corruption}. Intact is: {other or 'no other file in the folder'}."
        )
    folder, state = _check_run_folder(path.parent.parent), read_checkpoint(path)
    if not state.get("exact", True):
        raise ConfigError(
            f"resume={target}: it was saved while gradients were accumulated, which no checkpoint holds, so a training "
            f"would not resume exactly. Resume from the last one: {typed('resume', folder)}; or start a new training "
            f"with its weights: {typed('init_from', path)}"
        )
    return path


def _warn_if_best_corrupt(point: ResumePoint) -> None:
    """Warn now that the best weights so far are lost, and not only when they are needed after the last epoch."""
    best = point.checkpoint.with_name(numbered("best", 0))
    saved = point.state.get("callbacks", {}).get("Checkpoint")
    if not saved or not saved.get("best") or (best.exists() and best.samefile(point.checkpoint)):
        return
    if corruption := find_corruption(best):
        other = next_intact_checkpoint(best)
        logger.warning(
            f"the best weights so far cannot be read from '{best}': {corruption}. Stop the training and put an intact "
            f"file there; without one it may have no best weights at its end. The next intact one: {other or 'none'}."
        )


def newest_unfinished_run(folders: Sequence[Path], name: str) -> Path | None:
    """Return the newest run of a name that has a checkpoint, is not finished, and is not running."""
    for folder in sorted(folders, key=_newest_checkpoint_time, reverse=True):
        try:
            if _is_unfinished(folder, name):
                return folder
        except (ConfigError, OSError) as error:  # another user's folder, perhaps
            logger.warning(f"'{folder}' is skipped: {error}")
    return None


def _is_unfinished(folder: Path, name: str) -> bool:
    if not last_checkpoints(folder) or not (folder / "config.yaml").is_file() or is_finished(folder):
        return False
    # when Lightning starts a further rank, rank 0 of the same training is running already
    return read_config(folder).get("name") == name and not (is_first_process() and is_running(folder))


def has_no_checkpoint(folder: Path) -> bool:
    """Return whether a run in the folder ended before its first checkpoint, so that a new one may start there."""
    if not (folder / "config.yaml").is_file() or is_finished(folder) or is_running(folder):
        return False
    return not last_checkpoints(folder)


def _newest_checkpoint_time(folder: Path) -> float:
    try:
        return max((path.stat().st_mtime for path in last_checkpoints(folder)), default=0.0)
    except OSError:  # a dangling link, or no permission
        return 0.0


def last_checkpoints(run: Path) -> list[Path]:
    """Return the last checkpoints of a run, newest first."""
    folder = run / "checkpoints"
    paths = [path for path in folder.glob("last*.ckpt") if re.fullmatch(r"last(_\d+)?\.ckpt", path.name)]
    return sorted(paths, key=lambda path: int("".join(re.findall(r"\d+", path.name)) or 1))


def _check_run_folder(folder: Path) -> Path:
    if not (folder / "config.yaml").is_file():
        raise ConfigError(
            f"resume: '{folder}' is no run folder, as it has no config.yaml. A checkpoint without its run can give its "
            f"weights to a new training: init_from=FILE."
        )
    return folder


def _newest_intact_checkpoint(folder: Path) -> Path:
    """Return the newest checkpoint of a run that is intact and from which a training can resume exactly."""
    paths = last_checkpoints(_check_run_folder(folder))
    for path in paths:
        try:
            if corruption := find_corruption(path):
                raise ConfigError(f"'{path}' is corrupt: {corruption}.")
            if read_checkpoint(path).get("exact", True):
                return path
        except ConfigError as error:
            logger.warning(f"{error} The one before it is used.")
    corrupt = f"all {len(paths)} checkpoints in it are corrupt, or were saved while gradients were accumulated"
    reason = corrupt if paths else "it ended before its first checkpoint"
    raise ConfigError(f"resume: '{folder}' cannot be resumed: {reason}. Start a new run without resume.")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint; its tensors are read when they are used.

    Raises:
        ConfigError: another kind of file, or one that is not safe to read.
    """
    try:
        content = read_pickle(path)
        check_plain(content.get("model_config") if isinstance(content, dict) else None, path, "model_config")
    except FileError as error:
        raise ConfigError(str(error)) from error
    if not isinstance(content, dict) or not {"made_by", "model_config", "SegmentationData", "loops"} <= set(content):
        raise ConfigError(
            f"'{path}' is no checkpoint of a training that can be resumed. Its weights: {typed('init_from', path)}"
        )
    return content


def resume_hints(folder: Path) -> list[str]:
    """Return lines that say what a failed run has saved, and how to resume it.

    Never raises: the lines are shown with the error that ended the run.
    """
    paths = last_checkpoints(folder)
    for path in paths:
        with suppress(Exception):  # corrupt in an unexpected way, or of another program
            if find_corruption(path) is None:
                return _resume_hints_for(path, read_checkpoint(path), folder)
    if paths:
        return [f"none of the {len(paths)} checkpoints in '{folder / 'checkpoints'}' can be resumed"]
    return ["nothing was saved yet"] if folder.is_dir() else []


def _resume_hints_for(path: Path, content: Mapping[str, Any], folder: Path) -> list[str]:
    epochs, step = content["SegmentationData"]["epoch"], content["global_step"]
    return [
        f"saved: {path}, {epochs} whole epochs, step {step:,}",
        f"resume: finetune train {typed('resume', folder)}",
        f"start a new run with these weights: {typed('init_from', path)}",
    ]
