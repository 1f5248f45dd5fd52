"""The command `calibrate`: of the pixels predicted with 80 %, about 80 % should be right."""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor

from finetune.builders.evaluation_data import evaluation_data
from finetune.builders.recipe import with_placeholders_for_recipe
from finetune.builders.settings import DataSettings
from finetune.builders.task import restore_task
from finetune.checkpoints.saved_model import config_file, load_model, store_temperature
from finetune.config.compose import load_config, required
from finetune.config.errors import ConfigError, usage
from finetune.data.dataset import counted_generator
from finetune.data.module import SegmentationData
from finetune.inference import Predictor
from finetune.inference.finite import count_non_finite
from finetune.metrics.calibration import calibration_error, confidence_counts
from finetune.metrics.temperature import fit_temperature
from finetune.runs.console import configure_logging
from finetune.runs.folder import run_folder
from finetune.runs.saved_config import read_config
from finetune.tasks import PixelTask

logger = logging.getLogger(__name__)
MOST_LOGITS = 2**22  # that the temperature is fitted to


@dataclass(frozen=True)
class CalibrationResult:
    """A temperature that has been stored in a model.

    Attributes:
        temperature: the logits of the model are divided by it from now on, outside of training.
        ece_before: expected calibration error of the pixels that it was fitted to, without a temperature.
        ece_after: the same with the temperature.
    """

    temperature: float
    ece_before: float
    ece_after: float


def calibrate(*overrides: str | DictConfig) -> CalibrationResult:
    """Fit the temperature of a finished model on validation images, and store it in `model/config.json`.

    Args:
        overrides: of `finetune calibrate`, such as `run=DIR`; or one composed config.

    Raises:
        ConfigError: there is no finished model, or the data does not fit it.
    """
    config = with_placeholders_for_recipe(load_config(overrides, "calibrate"))
    configure_logging()
    path, given = Path(required(config, "run")), config["data"]
    with usage():
        file, saved, run = config_file(path), load_model(path), run_folder(path)
        trained, splits = (read_config(run), run / "splits.csv") if run is not None else (None, None)
        data, split = evaluation_data(config, saved, trained, splits)
        dataset, workers = data.datasets[split], given["num_workers"]
        batch_size = DataSettings().batch_size if given["batch_size"] is None else given["batch_size"]
        loaders = SegmentationData(dataset, dataset, None, batch_size, 0 if workers in (None, "auto") else workers)
        task = restore_task(saved.task, saved.model, data.ignore_index)
        if not isinstance(task, PixelTask):
            raise ConfigError(f"task={task.name} has no probabilities of pixels to calibrate.")
        task.check_target(dataset[0]["mask"], data.classes, data.ignore_index)
        predictor, former = Predictor(saved.segmenter, config["device"], task.output), saved.model.temperature
        saved.model.temperature = 1.0
        logits, labels = sample_logits(task.to(predictor.device), loaders, len(dataset))
        if not len(labels) or count_non_finite(logits):
            raise ConfigError(f"split={split}: no pixel counts there, or the model's outputs are NaN or infinite.")
        temperature = fit_temperature(logits, labels)
        store_temperature(file, temperature, former)
    before, after = (sample_error(logits / each, labels) for each in (1.0, temperature))
    logger.info(
        f"temperature {temperature:.3f}, of {len(labels):,} pixels of {len(dataset):,} {split} images: expected "
        f"calibration error {before:.4f} -> {after:.4f}. The masks stay the same."
    )
    return CalibrationResult(temperature, before, after)


@torch.inference_mode()
def sample_logits(task: PixelTask, loaders: SegmentationData, images: int) -> tuple[Tensor, Tensor]:
    """Return logits (N, K) and labels (N,), int64, of pixels that count, as many of each image.

    Where a pixel may have several classes, each class of a pixel is one with two classes, of which the first has the
    logit 0. The pixels of an image are always the same ones.

    Args:
        task: with the model.
        loaders: of the images to validate on.
        images: their number.
    """
    found: list[tuple[Tensor, Tensor]] = []
    for group in (each for batch in loaders.val_dataloader() for each in batch):
        target = task.target({name: values.to(task.device) for name, values in group.items()})
        outputs = task.model(task.model.normalize(group["image"].to(task.device)))
        if target.ndim == 4:
            outputs, target = torch.stack([torch.zeros_like(outputs), outputs], 1).flatten(2, 3), target.flatten(1, 2)
        most = max(1, MOST_LOGITS // outputs.shape[1] // images)
        for index, logits, labels in zip(group["index"].tolist(), outputs.flatten(2), target.flatten(1), strict=True):
            counted = (labels.int() != task.ignore_index).nonzero().flatten()
            drawn = torch.randperm(len(counted), generator=counted_generator(0, index))[:most]
            chosen = counted[drawn.to(counted.device)]
            found.append((logits[:, chosen].T.cpu().float(), labels[chosen].cpu().long()))
    logits, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
    return logits, labels


def sample_error(logits: Tensor, labels: Tensor) -> float:
    """Return the expected calibration error of logits (N, K) with labels (N,); of two classes, that of the second."""
    probabilities = logits.softmax(1)
    confidence, predicted = probabilities.max(1)
    right = predicted == labels
    if probabilities.shape[1] == 2:
        confidence, right = probabilities[:, 1], labels == 1
    counts = confidence_counts(*(each.view(1, 1, -1, 1) for each in (confidence, right, torch.ones_like(right))))
    return float(calibration_error(counts))
