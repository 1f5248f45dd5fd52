"""Score a model on a data set, and write what was found: the end of a training, and the whole of `evaluate`."""

import logging
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import lightning.pytorch as pl
import torch

from finetune.config.errors import ConfigError
from finetune.config.options import Config
from finetune.data import SegmentationDataset
from finetune.data.module import SegmentationData
from finetune.inference import Predictor
from finetune.inference.finite import NonFiniteOutputError
from finetune.metrics.calibration import Confidences
from finetune.metrics.image_boundaries import ImageBoundaries
from finetune.metrics.image_statistics import ImageStatistics
from finetune.metrics.label_doubt import LabelDoubt
from finetune.metrics.measurement import Measurement
from finetune.metrics.overlaps import ImageOverlaps, ImageResults, image_results
from finetune.models import InstanceSegmenter, Segmenter
from finetune.reports.boundaries import boundary_text, write_boundaries
from finetune.reports.calibration import write_probabilities
from finetune.reports.evaluation import write_evaluation
from finetune.reports.examples import write_examples, write_object_examples
from finetune.reports.label_errors import label_errors_text, write_label_errors
from finetune.tasks import InstanceTask, PixelTask, TuningTask

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation found, the same on all ranks.

    Attributes:
        counts: of the evaluator.
        measured: sums of each measurement, by name.
    """

    counts: dict[str, torch.Tensor]
    measured: dict[str, dict[str, torch.Tensor]]

    @cached_property
    def images(self) -> ImageResults | None:
        """The results of each image; None if the task has none."""
        return image_results(self.measured["overlaps"]) if "overlaps" in self.measured else None

    @cached_property
    def statistics(self) -> dict[str, list[float]]:
        """Numbers of each image of the data set, by name; see `ImageStatistics`."""
        return {name: values.tolist() for name, values in self.measured.get("statistics", {}).items()}


def score(
    trainer: pl.Trainer,
    task: TuningTask,
    loaders: SegmentationData,
    split: str,
    dataset: SegmentationDataset,
    also: Collection[str] = (),
) -> Evaluated:
    """Evaluate a model, and measure each image. Collective.

    Args:
        trainer: to evaluate with.
        task: with the model.
        loaders: of the data.
        split: `test` or `val`, of the loaders.
        dataset: of that split.
        also: measurements that take time of their own: `boundaries`, `label_doubt`.

    Raises:
        NonFiniteOutputError: outputs of the model are NaN or infinite, so there is nothing to score.
    """
    task.measurements = _measurements(task, dataset, also)
    try:
        counts = evaluate_split(trainer, task, loaders, split)
        return Evaluated(counts, task.sum_measurements())
    finally:
        task.measurements = {}


def _measurements(task: TuningTask, dataset: SegmentationDataset, also: Collection[str]) -> dict[str, Measurement]:
    if not isinstance(task, PixelTask):
        return {}
    images, classes = len(dataset), len(task.model.class_names)
    groups = classes if task.target_format == "masks" else 1
    measurements: dict[str, Measurement] = {
        "overlaps": ImageOverlaps(images, classes, task.ignore_index),
        "confidences": Confidences(groups, task.ignore_index),
        "statistics": ImageStatistics(images, task.ignore_index),
    }
    if "boundaries" in also:
        measurements["boundaries"] = ImageBoundaries(images, classes, task.ignore_index)
    if "label_doubt" in also:
        measurements["label_doubt"] = LabelDoubt(images, task.ignore_index)
    return measurements


MASKS = ("post", "slices", "boundaries", "label_errors")  # settings of an evaluation that need a task with masks


def check_wanted(config: Config, task: TuningTask, split: str) -> None:
    """Raise ConfigError for settings of an evaluation that have another type, or cannot be done.

    Args:
        config: of `finetune evaluate`.
        task: that is evaluated.
        split: of the images.
    """
    boundaries, label_errors = config["boundaries"], config["label_errors"]
    if not isinstance(boundaries, bool):
        raise ConfigError(f"boundaries={boundaries}: expected true or false.")
    if type(label_errors) is not int or label_errors < 0:
        raise ConfigError(f"label_errors={label_errors}: expected a number of images, 0 for none.")
    wanted = [name for name in MASKS if config.get(name)]
    if wanted and not isinstance(task, PixelTask):
        raise ConfigError(f"{', '.join(wanted)}: task={task.name} has no masks to compare. Leave it out.")
    if task.takes_objects and (config["window"] is not None or task.model.views is not None):
        raise ConfigError(f"window, tta: task={task.name} evaluates images whole, in one view. Leave them out.")
    if label_errors and split in ("train", "all"):
        logger.warning(
            f"label_errors: if the model was trained on these images (split={split}), it has learned their mistakes. "
            f"Train in folds (data.folds), evaluate each run with split=val, and join them: finetune report run=[A,B] "
            f"label_errors={label_errors}"
        )


def write_found(
    folder: Path,
    found: Evaluated,
    task: TuningTask,
    model: torch.nn.Module,
    dataset: SegmentationDataset,
    label_errors: int = 0,
) -> list[str]:
    """Write the files of an evaluation, and return lines about what its scores do not say.

    Args:
        folder: created if needed.
        found: by `score`.
        task: that was evaluated.
        model: of the task, as a whole.
        dataset: that was evaluated.
        label_errors: number of images to search for wrong labels; needs the measurement `label_doubt`.
    """
    columns = {name: values for name, values in found.statistics.items() if name == "uncertainty"}
    doubt = found.measured.get("label_doubt", {})
    columns |= {f"label_{name}": values.tolist() for name, values in doubt.items()}
    write_evaluation(folder, task.evaluator, found.counts, found.images, dataset.names, columns)
    lines, own = [], task.model
    if confidences := found.measured.get("confidences"):
        lines = write_probabilities(folder, confidences["counts"], own.class_names, own.temperature)
    if "boundaries" in found.measured:
        means = write_boundaries(folder, found.measured["boundaries"], own.class_names, dataset.names)
        lines.append(boundary_text(means))
    if isinstance(task, InstanceTask) and isinstance(model, InstanceSegmenter):
        task.to(task.root_device).eval()  # Lightning has left it on the CPU, as a training needs it
        write_object_examples(folder, task.find, dataset, model.class_names)
    if found.images is not None and isinstance(task, PixelTask) and isinstance(model, Segmenter):
        predictor = Predictor(model, task.root_device, task.output, others=list(task.others), post=task.post)
        write_examples(folder, predictor, dataset, task.target, found.images, task.ignore_index)
        if doubt:
            order = doubt["contradicted"].argsort(descending=True, stable=True)[:label_errors]
            order = order[doubt["contradicted"][order] > 0]
            areas = write_label_errors(folder, predictor, dataset, task.target, order.tolist(), task.ignore_index)
            lines.append(label_errors_text(areas, folder))
    return lines


def evaluate_split(
    trainer: pl.Trainer, task: TuningTask, loaders: SegmentationData, split: str
) -> dict[str, torch.Tensor]:
    """Evaluate on the `test` or `val` loader, and return the evaluator's counts summed over all ranks.

    Raises:
        NonFiniteOutputError: outputs of the model are NaN or infinite, so there is nothing to score.
    """
    limit = getattr(trainer, f"limit_{split}_batches")
    if (isinstance(limit, int) or limit < 1) and not trainer.fast_dev_run:  # type: ignore[attr-defined]  # missing in the class
        logger.warning(f"trainer.limit_{split}_batches={limit}: the scores are of that part of the {split} images")
    with warnings.catch_warnings():
        # our shards never overlap, which is what this warning is about
        warnings.filterwarnings("ignore", ".*it is recommended to use `Trainer\\(devices=1.*")
        run = trainer.test if split == "test" else trainer.validate
        run(task, datamodule=loaders, verbose=False)
    counts = task.sum_counts() if task.total_counts is None else task.total_counts
    if task.non_finite_images:
        raise NonFiniteOutputError(
            f"the model's outputs are NaN or infinite for {task.non_finite_images:,} {split} images, so there are no "
            f"scores. Its training diverged: train with a lower optimizer.lr, or with trainer.gradient_clip_val=1.0."
        )
    return counts
