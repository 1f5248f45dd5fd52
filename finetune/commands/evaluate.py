"""What the command `evaluate` does: any run on any data."""

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from omegaconf import DictConfig

from finetune.builders.data import DatasetBundle, assign_split_file, folder_data, found_records, synthetic_data
from finetune.builders.devices import resolve_precision
from finetune.builders.task import restore_task
from finetune.builders.trainer import build_trainer, find_callback
from finetune.callbacks import IoU
from finetune.checkpoints.saved_model import SavedModel, load_model
from finetune.config.compose import compose, load_config, required, to_plain_dict
from finetune.config.errors import ConfigError, usage
from finetune.data.module import SegmentationData
from finetune.metrics.evaluator import headline
from finetune.reports.evaluation import write_evaluation
from finetune.runs.console import configure_logging
from finetune.runs.folder import check_new, free_folder, run_folder
from finetune.runs.saved_config import read_config
from finetune.runs.signals import raise_on_signal, shut_down_ranks_on_exit
from finetune.tasks import TuningTask

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluationResult:
    """Scores of a model on a data set.

    Attributes:
        folder: tables and pictures.
        scores: name -> value.
        matrix: pixel counts (K, K), int64, rows are the truth; None for a task without a confusion matrix.
    """

    folder: Path
    scores: dict[str, float]
    matrix: torch.Tensor | None


@raise_on_signal()
def evaluate(*words: str | DictConfig) -> EvaluationResult:
    """Score a run on its own data, or on any other.

    Args:
        words: the words of `finetune evaluate`, such as `run=DIR data.root=photos`; or one composed config.

    Raises:
        ConfigError: no model there, or data that does not suit it.
    """
    config = load_config(words, "evaluate")
    configure_logging()
    path = Path(required(config, "run"))
    with usage():
        if config["output"]:
            check_new(Path(config["output"]))
        saved = load_model(path)
        data, split = evaluation_data(path, config, saved)
        home = run_folder(path) or Path()
        folder = Path(config["output"]) if config["output"] else free_folder(home / "evaluation" / split)
        config["trainer"]["precision"] = resolve_precision(config["trainer"])
        trainer = build_trainer({**config, "callbacks": IOU, "logger": {}}, folder)
        dataset = data.datasets[split]
        batch_size = 4 if config["data"]["batch_size"] is None else config["data"]["batch_size"]
        loaders = SegmentationData(dataset, dataset, dataset, batch_size)
        task = restore_task(saved.task, saved.model, data.ignore_index)
        task.check_target(dataset[0]["mask"], data.classes, data.ignore_index)
    with shut_down_ranks_on_exit(trainer):
        counts = evaluate_split(trainer, task, loaders, "test")
    scores = write_evaluation(folder, task.evaluator, counts)
    name = headline(scores)[0]
    logger.info(
        f"{split}/{name} {scores[name]:.4f} over {data.sizes()[split]:,} images; tables and figures in {folder}"
    )
    return EvaluationResult(folder, scores, task.evaluator.confusion_matrix(counts))


IOU = {"iou": {"_target_": "finetune.callbacks.IoU"}}


def evaluate_split(
    trainer: pl.Trainer, task: TuningTask, loaders: SegmentationData, split: str
) -> dict[str, torch.Tensor]:
    """Evaluate on the `test` or `val` loader, and return the evaluator's counts summed over all ranks."""
    with warnings.catch_warnings():
        # our shards never overlap, which is what this warning is about
        warnings.filterwarnings("ignore", ".*it is recommended to use `Trainer\\(devices=1.*")
        run = trainer.test if split == "test" else trainer.validate
        run(task, datamodule=loaders, verbose=False)
    scores = find_callback(trainer, IoU)
    return task.sum_counts() if scores is None or scores.counts is None else scores.counts


def evaluation_data(path: Path, config: Mapping[str, Any], saved: SavedModel) -> tuple[DatasetBundle, str]:
    """The data to evaluate on, and the name of its split.

    What the config leaves open is as the run was trained; a folder of other images without a split is taken whole.

    Raises:
        ConfigError: other classes than the model's, or a split that is not there.
    """
    home, classes = run_folder(path), saved.model.class_names
    trained = read_config(home) if home else to_plain_dict(compose("data=folder"))
    given = {key: value for key, value in config["data"].items() if value is not None}
    kind = given.get("format") or ("folder" if "root" in given else trained["data"]["format"])
    other = (
        to_plain_dict(compose("data=folder"))["data"]
        if kind == "folder" and trained["data"]["format"] != "folder"
        else {}
    )
    settings = {**trained["data"], **other, **saved.data, **given, "format": kind, "classes": list(classes)}
    _check_classes(given.get("classes"), classes)
    if settings["format"] == "synthetic":
        data = synthetic_data(settings, trained["seed"])
        split = _choose_split(config["split"], list(data.datasets))
        return data, split
    records = found_records(settings)
    own = str(home / "splits.csv") if home is not None and "root" not in given else None
    splits = settings.get("splits") or own
    if splits is not None:
        records = assign_split_file(records, splits)
    split = _choose_split(config["split"], [record.split for record in records])
    chosen = [replace(record, split=split) for record in records if split in ("all", record.split)]
    return folder_data(settings, chosen, saved.model.backbone.in_channels, trained["seed"]), split


def _check_classes(given: int | Sequence[str] | None, classes: Sequence[str]) -> None:
    count = given if isinstance(given, int) or given is None else len(given)
    if count == len(classes) and isinstance(given, list) and given != list(classes):
        raise ConfigError(
            f"the model's classes are {', '.join(classes)}, but data.classes says {', '.join(map(str, given))}. "
            f"Their order is that of the labels in the masks; leave data.classes out to take the model's."
        )
    if count is not None and count != len(classes):
        raise ConfigError(
            f"the model knows {len(classes)} classes ({', '.join(classes)}), but data.classes declares {count}. "
            f"Evaluate on masks of the model's classes, and leave data.classes out; or train for the new ones."
        )


def _choose_split(wanted: str | None, found: Sequence[str]) -> str:
    there = [name for name in ("test", "val", "train") if name in found]
    if wanted is None:
        return there[0] if there else "all"
    if wanted not in (*there, "all"):
        raise ConfigError(f"split='{wanted}' is not there; the data has {', '.join([*there, 'all'])}.")
    return wanted
