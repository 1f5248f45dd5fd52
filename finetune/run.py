"""What the commands `train` and `predict` do, and `load` for what a training leaves."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import DictConfig

from finetune import build
from finetune.adapters import save_adapters
from finetune.callbacks import Tuning
from finetune.check import check, check_length
from finetune.checkpoint import load_model, save_model
from finetune.config import configure, required, usage
from finetune.console import speak
from finetune.data.module import SegmentationData
from finetune.data.splits import write_splits
from finetune.evaluation import score
from finetune.finding import AUTO, draw, provisional, settle
from finetune.folder import check_new, close_log, is_first_process, make_run_folder
from finetune.inference import Predictor
from finetune.reports.evaluation import write_curves, write_evaluation
from finetune.reports.tuning import write_timeline
from finetune.tasks import SemanticTask
from finetune.tasks.sharding import load_weights, whole_model

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
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


def train(*words: str | DictConfig) -> Run:
    """Fine-tune a model.

    Args:
        words: the words of `finetune train`, such as `data.root=photos`; or one composed config.

    Raises:
        ConfigError: with every mistake found, before anything is written.
    """
    config = configure(words, "train")
    speak()
    folder = Path(config["output"])
    with usage():
        if is_first_process():
            check_new(folder)
        config, searched = provisional(config)
        data = check(config)
        config["trainer"]["precision"] = build.precision(config["trainer"])
        config, finding = settle(config, data, searched)
        check_length(config, data)
        pl.seed_everything(config["seed"], verbose=False)
        task = build.task(config, build.model(config, data.classes), data)
        trainer, loaders = build.trainer(config, folder), build.loaders(config, data)
        if is_first_process():
            make_run_folder(folder, config)
            if finding is not None:
                draw(finding, folder / "plots" / "lr_finder.png")
    try:
        if data.records and is_first_process():
            write_splits(folder / "splits.csv", data.records)
        for group in sorted(searched):
            logger.info(f"{group}.{AUTO[group][0]}=auto found {config[group][AUTO[group][0]]}")
        run = _fit(config, data, task, trainer, loaders)
    except BaseException as error:
        close_log(folder, error)
        raise
    close_log(folder)
    return run


def _fit(
    config: Mapping[str, Any], data: build.Data, task: SemanticTask, trainer: pl.Trainer, loaders: SegmentationData
) -> Run:
    folder = Path(config["output"])
    logger.info(f"{config['backbone']['name']} with a {config['head']['name']} head, {config['trainer']['precision']}")
    logger.info(data.describe())
    try:
        trainer.fit(task, datamodule=loaders)
    except SIGTERMException as error:  # Lightning would exit with 0
        raise SystemExit(143) from error
    except SystemExit as error:  # how Lightning ends on Ctrl-C
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        raise
    best, monitored = _best(trainer, folder)
    load_weights(task, torch.load(best, task.device, weights_only=True)["state_dict"])
    split = "test" if loaders.test is not None else "val"
    matrix = score(trainer, task, loaders, split)
    scores: dict[str, float] = {}
    model = whole_model(task.model)
    if trainer.is_global_zero:
        scores = write_evaluation(folder / "evaluation" / split, matrix, data.classes)
        named = {f"{split}/{name}": value for name, value in scores.items()}
        facts = {"ignore_index": data.ignore_index, "mask_values": config["data"].get("mask_values")}
        if model.adapted:
            if model.backbone.weights != "none":  # random ones cannot be had again to put adapters beside
                save_adapters(folder / "adapters", model, task.ever_trained())
            model.merge_adapters()
        save_model(folder / "model", model, facts, named)
        write_curves(folder)
        _write_timeline(trainer, folder)
        for line in closing_lines(config, folder, named, monitored):
            logger.info(line)
    return Run(folder, best, monitored, scores)


def _write_timeline(trainer: pl.Trainer, folder: Path) -> None:
    tuning = build.find_callback(trainer, Tuning)
    if tuning is not None and tuning.record is not None:
        write_timeline(tuning.record, folder / "plots" / "tuning.png")


def _best(trainer: pl.Trainer, folder: Path) -> tuple[Path, float]:
    """The best checkpoint and its score; where none was kept, the last weights are saved and are the best."""
    saver = build.find_callback(trainer, ModelCheckpoint)
    if saver is not None and saver.best_model_path and saver.best_model_score is not None:
        trainer.strategy.barrier()  # the first rank has written it
        return Path(saver.best_model_path), float(saver.best_model_score)
    path = folder / "checkpoints" / "last.ckpt"
    trainer.save_checkpoint(path)
    return path, float(trainer.callback_metrics.get("val/iou", float("nan")))


def closing_lines(config: Mapping[str, Any], folder: Path, scores: Mapping[str, float], best: float) -> list[str]:
    """What a training says last: what it scored, where to look, what to type next."""
    scored = next((name for name in scores if name.endswith("/iou")), "")
    previews = sorted((folder / "plots" / "preview").glob("*.png"))
    pictures = [
        *previews[-1:],
        folder / "plots" / "iou.png",
        folder / "evaluation" / scored.split("/")[0] / "confusion.png",
    ]
    lines = [
        "",
        f"best validation score {best:.4f}; with those weights {scored} {scores[scored]:.4f}, "
        f"pixel accuracy {scores[scored.replace('iou', 'pixel_accuracy')]:.4f}",
        f"run folder   {folder}",
        *(f"picture      {path}" for path in pictures if path.is_file()),
        "",
        "next:",
        f"  finetune predict run={folder} input=PHOTOS output=masks",
    ]
    if config["data"]["kind"] == "drawn":
        lines.append(
            "  finetune train data.root=FOLDER data.classes=[background,thing]   # FOLDER has images/ and masks/"
        )
    else:
        lines.append(f"  finetune evaluate run={folder} data.root=OTHER_FOLDER")
    return lines


def predict(*words: str | DictConfig) -> list[Path]:
    """Write masks, and overlays if wanted, for images; return the masks' paths.

    Args:
        words: the words of `finetune predict`, such as `run=DIR input=photos output=masks`.
    """
    config = configure(words, "predict")
    speak()
    run, source, output = (Path(required(config, key)) for key in ("run", "input", "output"))
    with usage():
        check_new(output)
        predictor = Predictor(load_model(run).model, config["device"])
        names = predictor.readable(source)
    written = predictor.predict_files(names, output, config["overlays"])
    overlays = f", overlays in {output / 'overlays'}" if config["overlays"] else ""
    logger.info(f"{len(written):,} masks in {output / 'masks'}{overlays}")
    return written


def load(path: str | Path, device: str | None = None) -> Predictor:
    """A model to predict with, from a run folder, a model folder, or a checkpoint.

    Args:
        path: such as `run.best` or `outputs/pets/2026-01-31_12-00-00`.
        device: `cpu`, `cuda`, ...; None takes a GPU if there is one.
    """
    return Predictor(load_model(Path(path)).model, device)
