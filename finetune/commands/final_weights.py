"""Choose the weights with which a training ends: those of its best validation, or a mean of the best ones."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from finetune.builders.trainer import find_callback
from finetune.callbacks import Checkpoint, IoU
from finetune.callbacks.weight_averaging import Averaging
from finetune.checkpoints.checkpoint_io import wait
from finetune.checkpoints.rotation import numbered
from finetune.checkpoints.soup import mean_weights
from finetune.commands.scoring import evaluate_split
from finetune.data.module import SegmentationData
from finetune.engine.fsdp import load_weights
from finetune.io.safe_files import read_whole
from finetune.tasks import TuningTask

logger = logging.getLogger(__name__)


def load_best(trainer: pl.Trainer, task: TuningTask, folder: Path, monitor: str) -> tuple[Path, float]:
    """Load the best checkpoint into the task, and return its path and its score."""
    best, score = _best(trainer, folder, monitor)
    content = read_whole(best)
    load_weights(task, content["state_dict"])
    _warn_if_not_averaged(trainer, content)
    return best, score


def load_soup(trainer: pl.Trainer, task: TuningTask, loaders: SegmentationData, score: float) -> float:
    """Add the other best checkpoints to the mean of the weights, each unless the validation score falls. Collective.

    Call it after `load_best`, with its score; the task holds the mean then.

    Returns:
        The score of the weights that the task holds.
    """
    saver = find_callback(trainer, Checkpoint)
    if saver is None or len(saver.best) < 2:
        logger.info("soup: there is one best checkpoint only, so there is no mean")
        return score
    folder = trainer.strategy.broadcast(saver.folder)  # each rank of a script may have named it by a time of its own
    states = [read_whole(folder / numbered("best", rank))["state_dict"] for rank in range(len(saver.best))]
    chosen, sign = states[:1], 1 if saver.mode == "max" else -1
    with _without_tables(trainer):
        for state in states[1:]:
            load_weights(task, mean_weights([*chosen, state]))
            evaluate_split(trainer, task, loaders, "val")
            candidate = float(trainer.callback_metrics[saver.monitor])
            if sign * candidate >= sign * score:
                chosen, score = [*chosen, state], candidate
    load_weights(task, mean_weights(chosen))
    logger.info(f"soup: the mean of {len(chosen)} of the {len(states)} best checkpoints, {saver.monitor} {score:.4f}")
    return score


@contextmanager
def _without_tables(trainer: pl.Trainer) -> Iterator[None]:
    """Print no table of the classes after an evaluation."""
    callback = find_callback(trainer, IoU)
    shown = callback is not None and callback.table
    if callback is not None:
        callback.table = False
    try:
        yield
    finally:
        if callback is not None:
            callback.table = shown


def _warn_if_not_averaged(trainer: pl.Trainer, content: Mapping[str, Any]) -> None:
    averaging = find_callback(trainer, Averaging)
    if averaging is not None and averaging.average.updates and "averaging" not in content:
        logger.warning(
            "the best checkpoint, which becomes the model, is from before the average started, and has raw weights. "
            "Set an earlier callbacks.average.start, or validate more often."
        )


def _best(trainer: pl.Trainer, folder: Path, monitor: str) -> tuple[Path, float]:
    """Return the best checkpoint and its score; without one, the last is the best, and is saved if it is missing."""
    wait(trainer)
    saver = find_callback(trainer, Checkpoint)
    if saver is not None and saver.best_path is not None:
        best, score = saver.best_path, saver.best[0]["score"]
    else:
        best, score = folder / "checkpoints" / "last.ckpt", float(trainer.callback_metrics.get(monitor, "nan"))
        if not trainer.strategy.broadcast(saver is not None and best.is_file()):
            trainer.save_checkpoint(best, weights_only=False)
            wait(trainer)
    # ranks that srun or torchrun started may each have named the folder by a time of their own
    return trainer.strategy.broadcast(best), score
