"""What the command `train` does."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning.pytorch as pl
from omegaconf import DictConfig

from finetune.builders.checks.trainer import check_length
from finetune.builders.checks.training import check
from finetune.builders.data import DatasetBundle, build_datamodule
from finetune.builders.devices import resolve_precision
from finetune.builders.task import build_task
from finetune.builders.trainer import build_trainer, find_callback
from finetune.callbacks import ApplyTuningPlan, Checkpoint
from finetune.checkpoints.adapters import save_adapters
from finetune.checkpoints.checkpoint_io import wait
from finetune.checkpoints.saved_model import save_model
from finetune.commands.auto_search import AUTO, resolve_auto, save_lr_figure, with_placeholders
from finetune.commands.evaluate import evaluate_split
from finetune.config.errors import usage
from finetune.data.module import SegmentationData
from finetune.engine.fsdp import full_model, load_weights
from finetune.engine.rank_zero import is_first_process
from finetune.io.safe_files import read_whole
from finetune.metrics.evaluator import headline
from finetune.reports.evaluation import write_curves, write_evaluation
from finetune.reports.tuning import write_timeline
from finetune.runs.console import configure_logging
from finetune.runs.error_hints import advice
from finetune.runs.folder import close_log, finish, open_run_folder
from finetune.runs.prepare import describe_resumption, initial_model, note_data, resolve_run_config, with_splits
from finetune.runs.resume import ResumePoint, resume_hints
from finetune.runs.signals import raise_on_signal, shut_down_ranks_on_exit
from finetune.runs.slurm import requeue
from finetune.tasks import TuningTask

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """A finished training.

    Attributes:
        folder: all that it left.
        best: checkpoint of the best epoch; `finetune.load` takes it, and the folder too.
        score: the best monitored value, `val/iou` unless the config says otherwise.
        scores: of the best weights on the test split, or on the validation split where there is no test.
    """

    folder: Path
    best: Path
    score: float
    scores: dict[str, float]


@raise_on_signal()
def train(*words: str | DictConfig) -> TrainResult:
    """Fine-tune a model, or go on with a training that was stopped.

    Args:
        words: the words of `finetune train`, such as `data.root=photos` or `resume=outputs/...`; or one config.

    Returns:
        What it left; with `trainer.fast_dev_run`, which tries a batch of everything, that is nothing but the scores.

    Raises:
        ConfigError: with every mistake found, before anything is written.
        Interrupted: the process was told to end, and has saved everything.
    """
    configure_logging()
    with usage():
        config, before = resolve_run_config(words)
    if not config["trainer"].get("fast_dev_run"):
        return _train(config, before)
    with TemporaryDirectory() as aside:
        return _train({**config, "output": str(Path(aside) / "run")}, before)


def _train(config: dict[str, Any], before: ResumePoint | None) -> TrainResult:
    folder = Path(config["output"])
    with usage():
        config, searched = with_placeholders(config)
        data = check(config if before is None else with_splits(config, folder))
        config["trainer"]["precision"] = resolve_precision(config["trainer"])
        config, finding = resolve_auto(config, data, searched)
        check_length(config, data)
        pl.seed_everything(config["seed"], verbose=False)
        model, told = initial_model(config, data, before)
        task = build_task(config, model, data)
        trainer = build_trainer(config, folder, before.step if before else None)
        loaders = build_datamodule(config, data)
        if is_first_process():
            open_run_folder(folder, config, before is not None)
    try:
        if is_first_process():
            note_data(folder, data.records, before)
            if finding is not None:
                save_lr_figure(finding, folder / "plots" / "lr_finder.png")
        told += [f"{group}.{AUTO[group][0]}=auto found {config[group][AUTO[group][0]]}" for group in sorted(searched)]
        for line in (*told, *(describe_resumption(before, trainer) if before is not None else ())):
            logger.info(line)
        with shut_down_ranks_on_exit(trainer):
            run = _fit(config, data, task, trainer, loaders, before)
    except BaseException as error:
        for line in (*advice(error, config), *resume_hints(folder), *requeue(error)) if is_first_process() else ():
            error.add_note(line)
        close_log(folder, error)
        raise
    if is_first_process():
        finish(folder)
    close_log(folder)
    return run


def _fit(
    config: Mapping[str, Any],
    data: DatasetBundle,
    task: TuningTask,
    trainer: pl.Trainer,
    loaders: SegmentationData,
    before: ResumePoint | None,
) -> TrainResult:
    folder = Path(config["output"])
    logger.info(f"{config['backbone']['name']} with a {config['head']['name']} head, {config['trainer']['precision']}")
    logger.info(data.describe())
    checkpoint = before.checkpoint if before is not None else None
    trainer.fit(task, datamodule=loaders, ckpt_path=checkpoint, weights_only=True)
    best, monitored = _best(trainer, folder, config["checkpoint"]["monitor"])
    load_weights(task, read_whole(best)["state_dict"])
    split = "test" if loaders.test is not None else "val"
    counts = evaluate_split(trainer, task, loaders, split)
    scores: dict[str, float] = {}
    model = full_model(task.model)
    if trainer.is_global_zero:
        scores = write_evaluation(folder / "evaluation" / split, task.evaluator, counts)
        named = {f"{split}/{name}": value for name, value in scores.items()}
        facts = {"ignore_index": data.ignore_index, "mask_values": config["data"].get("mask_values")}
        if model.has_lora:
            if model.backbone.weights != "none":  # random ones cannot be had again to put adapters beside
                save_adapters(folder / "adapters", model, task.trainable_at_any_time(), task.config())
            model.merge_adapters()
        save_model(folder / "model", model, facts, named, task.config())
        write_curves(folder)
        _write_timeline(trainer, folder)
        for line in tried_lines(trainer) or closing_lines(config, folder, named, monitored):
            logger.info(line)
    return TrainResult(best.parent.parent, best, monitored, scores)


def _write_timeline(trainer: pl.Trainer, folder: Path) -> None:
    tuning = find_callback(trainer, ApplyTuningPlan)
    if tuning is not None and tuning.record is not None:
        write_timeline(tuning.record, folder / "plots" / "tuning.png")


def _best(trainer: pl.Trainer, folder: Path, monitor: str) -> tuple[Path, float]:
    """Return the best checkpoint and its score; if none was kept, the last one, which is saved if needed."""
    wait(trainer)
    saver = find_callback(trainer, Checkpoint)
    if saver is not None and saver.best_path is not None:
        best, monitored = saver.best_path, saver.best[0]["score"]
    else:
        best, monitored = folder / "checkpoints" / "last.ckpt", float(trainer.callback_metrics.get(monitor, "nan"))
        if not trainer.strategy.broadcast(saver is not None and best.is_file()):
            trainer.save_checkpoint(best, weights_only=False)
            wait(trainer)
    # ranks that srun or torchrun has started may each have named the folder by a time of their own
    return trainer.strategy.broadcast(best), monitored


def tried_lines(trainer: pl.Trainer) -> list[str]:
    """What a training says last that was only to try everything; nothing for any other."""
    count = trainer.fast_dev_run  # type: ignore[attr-defined]  # missing in the class
    what = "a batch was" if count == 1 else f"{count} batches were"
    said = f"trainer.fast_dev_run={str(count).lower()}: {what} trained on, validated and tested, and nothing was kept"
    return [said] if count else []


def closing_lines(config: Mapping[str, Any], folder: Path, scores: Mapping[str, float], best: float) -> list[str]:
    """What a training says last: what it scored, where to look, what to type next."""
    split = next(iter(scores)).split("/")[0]
    first, *others = headline({name.partition("/")[2]: value for name, value in scores.items()})
    shown = [f"{split}/{first} {scores[f'{split}/{first}']:.4f}"]
    shown += [f"{name.replace('_', ' ')} {scores[f'{split}/{name}']:.4f}" for name in others]
    previews = sorted((folder / "plots" / "preview").glob("*.png"))
    pictures = [
        *previews[-1:],
        folder / "plots" / "iou.png",
        folder / "evaluation" / split / "confusion.png",
    ]
    lines = [
        "",
        f"best validation score {best:.4f}; with those weights {', '.join(shown)}",
        f"run folder   {folder}",
        *(f"picture      {path}" for path in pictures if path.is_file()),
        "",
        "next:",
        f"  finetune predict run={folder} input=PHOTOS output=masks",
    ]
    if config["data"]["format"] == "synthetic":
        lines.append(
            "  finetune train data.root=FOLDER data.classes=[background,thing]   # FOLDER has images/ and masks/"
        )
    else:
        lines.append(f"  finetune evaluate run={folder} data.root=OTHER_FOLDER")
    return lines
