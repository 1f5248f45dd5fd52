"""What the command `evaluate` does: any run on any data."""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig

from finetune.builders.checks.trainer import check_evaluation_trainer
from finetune.builders.devices import resolve_precision, resolve_workers
from finetune.builders.evaluation_data import evaluation_data
from finetune.builders.post import build_post
from finetune.builders.recipe import with_placeholders_for_recipe
from finetune.builders.settings import DataSettings
from finetune.builders.slices import slice_columns
from finetune.builders.task import restore_pixel_output, restore_task
from finetune.builders.trainer import build_trainer
from finetune.builders.views import use_views
from finetune.checkpoints.saved_model import load_models
from finetune.commands.scoring import check_wanted, score, write_found
from finetune.config.compose import load_config, required_paths
from finetune.config.errors import ConfigError, usage
from finetune.data.module import SegmentationData
from finetune.engine.fsdp import full_model
from finetune.engine.launcher import check_launcher, end_launched_rank, report_killed_ranks
from finetune.io.messages import html_table
from finetune.metrics.evaluator import headline, summary
from finetune.metrics.slices import slice_rows
from finetune.models.blending import SlidingWindow
from finetune.reports.evaluation import interval_text, write_rows
from finetune.runs.console import configure_logging
from finetune.runs.folder import check_output, output_folder, run_folder
from finetune.runs.saved_config import read_config
from finetune.runs.signals import raise_on_signal, shut_down_ranks_on_exit
from finetune.tasks import PixelTask

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluationResult:
    """Scores of a model on a data set.

    Attributes:
        folder: tables and figures.
        scores: name -> value; the first is the headline.
        matrix: pixel counts (K, K), int64, rows are the truth; None for a task without a confusion matrix.
        interval: limits of `iou` for 95 % of the sets that are drawn from the images; None for a single image, or
            a task that finds objects.
    """

    folder: Path
    scores: dict[str, float]
    matrix: torch.Tensor | None
    interval: tuple[float, float] | None = None

    @property
    def score(self) -> float:
        """The headline, such as `iou`: the objective of a sweep."""
        return self.scores[headline(self.scores)[0]]

    def _repr_html_(self) -> str:
        return html_table([("score", "value"), *((name, f"{value:.4f}") for name, value in self.scores.items())])


@raise_on_signal()
def evaluate(*overrides: str | DictConfig) -> EvaluationResult:
    """Score a run on its own data, or on any other.

    Args:
        overrides: of `finetune evaluate`, such as `run=DIR data.root=photos`; or one composed config. Several runs,
            `run=[A,B]`, are evaluated together, by the mean of their logits.

    Raises:
        ConfigError: there is no model, or the data does not fit it.
    """
    config = load_config(overrides, "evaluate")
    configure_logging()
    paths = required_paths(config, "run")
    with usage():
        check_output(config["output"])
        saved, *others = load_models(paths)
        for line in use_views(config["tta"], [each.model for each in (saved, *others)]):
            logger.info(line)
        for each in (saved, *others):
            each.model.sliding_window = SlidingWindow(config["window"], config["overlap"], each.model.reduce)
        run, *other_runs = map(run_folder, paths)
        trained, own_splits = (read_config(run), run / "splits.csv") if run is not None else (None, None)
        check_evaluation_trainer(config["trainer"])
        other_splits = [folder / "splits.csv" for folder in other_runs if folder is not None]
        data, split = evaluation_data(config, saved, trained, own_splits, other_splits)
        name = split if len(paths) == 1 else f"{split}_of_{len(paths)}_runs"  # not to be taken for scores of the first
        name += "_post" * bool(config.get("post")) + "_threshold" * (config["threshold"] is not None)
        folder = output_folder(config["output"], (run or Path()) / "evaluation" / name)
        config = with_placeholders_for_recipe(config)
        settings = {**config["trainer"], "precision": resolve_precision(config["trainer"])}
        trainer = build_trainer({**config, "trainer": settings, "callbacks": IOU, "logger": {}}, folder)
        check_launcher(trainer)
        dataset, defaults, given = data.datasets[split], DataSettings(), config["data"]
        batch_size = defaults.batch_size if given["batch_size"] is None else given["batch_size"]
        workers = resolve_workers("auto" if given["num_workers"] is None else given["num_workers"], config["trainer"])
        loaders = SegmentationData(dataset, dataset, dataset, batch_size, workers)
        task = restore_task(saved.task, saved.model, data.ignore_index, [other.model for other in others])
        if config["threshold"] is not None and task.takes_objects:
            raise ConfigError(
                f"threshold={config['threshold']}: objects are scored with task.min_score of the training. Omit it."
            )
        if config["threshold"] is not None:
            task.output = restore_pixel_output(saved.task, saved.model.class_names, config["threshold"])
        check_wanted(config, task, split)
        if config.get("post") and isinstance(task, PixelTask):
            task.post = build_post(config["post"], task.output)
            logger.info(f"after the model: {', '.join(config['post'])} (post)")
        task.check_target(dataset[0]["mask"], data.model_classes, data.ignore_index)
        columns = slice_columns(config["slices"], dataset.records, own_splits)
    with shut_down_ranks_on_exit(trainer), report_killed_ranks(trainer, tuple):
        also = [name for name, key in (("boundaries", "boundaries"), ("label_doubt", "label_errors")) if config[key]]
        found = score(trainer, task, loaders, "test", dataset, also)
        model = full_model(task.model)
    end_launched_rank(trainer)
    scores, images = summary(task.evaluator.compute(found.counts)), found.images
    lines = []
    if trainer.is_global_zero:
        lines = write_found(folder, found, task, model, dataset, config["label_errors"])
    if trainer.is_global_zero and columns and images is not None:
        sliced = {name: found.statistics[name] if values is None else values for name, values in columns.items()}
        if rows := slice_rows(images, sliced):
            write_rows(folder / "slices.csv", rows)
        else:
            logger.warning("no image of this split has a value in the columns of slices, so there is no slices.csv")
    name = headline(scores)[0]
    logger.info(
        f"{split}/{name} {scores[name]:.4f} over {data.sizes()[split]:,} {data.noun}; tables and figures in {folder}"
    )
    if name == "iou" and (text := interval_text(images)):
        logger.info(f"{split}/{name}{text}")
    for line in lines:
        logger.info(line)
    interval = images.interval if images is not None else None
    return EvaluationResult(folder, scores, task.evaluator.confusion_matrix(found.counts), interval)


IOU = {"iou": {"_target_": "finetune.callbacks.IoU"}}
