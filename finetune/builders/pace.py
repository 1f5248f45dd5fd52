"""Time a few steps of a training, and settle the length that its budget allows."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from torch.utils.data import DataLoader

from finetune.builders.data import build_datamodule
from finetune.builders.dataset_bundle import DatasetBundle
from finetune.builders.devices import device_type, on_training_device
from finetune.builders.dummy_step import trial_step
from finetune.builders.recipe import settle_length
from finetune.builders.task import task_without_weights
from finetune.builders.training_length import spaces_validations, step_counts, steps_of_epoch, with_length
from finetune.builders.views import build_views
from finetune.config.errors import ConfigError
from finetune.config.nested import with_value
from finetune.data.dataset import SegmentationDataset, read_pair
from finetune.data.module import SegmentationData
from finetune.recipe.budget import Pace, fit_budget, read_budget
from finetune.recipe.rules import FEW_STEPS, SHORT_BATCH
from finetune.reports.examples import SHOWN
from finetune.tasks import TuningTask
from finetune.tuning.freeze import apply_trainability

WARMUP, MOST_STEPS = 2, 20
SHARE = 0.02  # of the budget, that timing the steps may take
START = 1.0  # seconds from the end of the timing to the first step
VALIDATION = 0.7  # seconds of a validation for the figure and the checkpoint
LOOP = 0.01  # seconds of a step for Lightning's loop, the callbacks and the optimizer's groups
EPOCH = 0.2  # seconds from the last step of an epoch to the first of the next, without a validation: a checkpoint
END = 4.0  # seconds for the last checkpoint, the figures and the model folder


def with_budget(
    config: dict[str, Any], data: DatasetBundle, started: float, may_shrink: bool = False
) -> tuple[dict[str, Any], list[str]]:
    """Return the config with a length in place of `auto`, such as what a budget of time allows, and lines about it.

    Args:
        config: of a training; `trainer.max_epochs` is `auto` if its length is not settled yet.
        data: of the training.
        started: value of `time.monotonic` at the start of the command.
        may_shrink: whether the batch may become smaller, for more steps where they are few.

    Raises:
        ConfigError: several devices, or no time for a few steps.
    """
    if config["trainer"]["max_epochs"] != "auto":
        return config, []
    seconds = read_budget(config["budget"]).seconds if config.get("budget") else None
    if seconds is None:
        return settle_length(config, data)
    lines, size = [], config["data"]["batch_size"]
    with on_training_device(config):
        pace = measure_pace(config, data, SHARE * seconds, started)
    steps = int((seconds - pace.before - pace.after) / pace.step)
    if may_shrink and size > SHORT_BATCH and steps < FEW_STEPS:
        config = with_value(config, "data.batch_size", SHORT_BATCH)
        few = f"there is time for {max(0, steps)} steps of {size} images, and more steps help more"
        lines = [f"data.batch_size={SHORT_BATCH} instead: {few}"]
        pace = replace(pace, step=pace.step * SHORT_BATCH / size)  # timing again would take time from the training
    images = data.sizes()["train"]
    in_epoch, step = steps_of_epoch(config, images), pace.step
    pace = replace(pace, step=pace.step + EPOCH / in_epoch)
    validation, every = pace.validation, config["trainer"]["check_val_every_n_epoch"]
    if isinstance(every, int) and config["trainer"].get("val_check_interval") is None:  # as often as the user says
        pace = replace(pace, step=pace.step + validation / (every * in_epoch), validation=0.0)
    try:
        length = fit_budget(seconds, pace)
    except ValueError as error:
        raise ConfigError(f"budget={config['budget']}: {error}") from error
    counted = "" if spaces_validations(config["trainer"]) else f"{length.validations} "
    config = with_length(config, length, images)
    return config, [
        *lines,
        f"{step_counts(config, images)[1]:,} steps of {step:.2g} s, {config['trainer']['max_epochs']} epochs, "
        f"{counted}validations of {validation:.1f} s: budget={config['budget']}, of which start and end take "
        f"{pace.before + pace.after:.0f} s",
    ]


def measure_pace(config: Mapping[str, Any], data: DatasetBundle, seconds: float, started: float) -> Pace:
    """Time training steps and the evaluation of a few images, on a model of its own.

    Args:
        config: of the training.
        data: of the training.
        seconds: to spend on steps, beyond the fewest.
        started: value of `time.monotonic` at the start of the command.
    """
    task = task_without_weights(config, data.model_classes)
    apply_trainability(task.model, task.trainable_at_any_time(), task.norms())
    loaders, accumulated = build_datamodule(config, data), config["trainer"]["accumulate_grad_batches"]
    step = _time_steps(trial_step(config, task), loaders, device_type(config), seconds)
    task.model.takes_reduced = True
    image = _time_evaluation(task, loaders.val_dataloader())
    whole = image
    if task.model.reduce > 1:
        whole = _time_whole_image(task, data.datasets.get("test", data.datasets["val"]))
    sizes = data.sizes()
    views = build_views(config["tta"])
    scored = sizes.get("test", sizes["val"])
    scoring = whole * (scored + min(scored, 2 * SHOWN)) * (1 if views is None else views.cost)  # some are drawn, too
    drawn = ((config.get("callbacks") or {}).get("preview") or {}).get("images", 0)
    validation = image * (sizes["val"] + min(drawn, sizes["val"])) + VALIDATION
    scoring += (config["checkpoint"]["keep_best"] - 1) * validation if config.get("soup") else 0
    return Pace(time.monotonic() - started + START, step * accumulated + LOOP, validation, scoring + END)


def _time_steps(step: Callable[[Any], None], loaders: SegmentationData, device: str, seconds: float) -> float:
    """Return the mean seconds of a batch, loading included."""
    batches = _repeated(loaders)
    for _ in range(WARMUP):
        step(loaders.on_after_batch_transfer(move_data_to_device(next(batches), device), 0))
    _synchronize(device)
    start, done = time.monotonic(), 0
    while done < 3 or (done < MOST_STEPS and time.monotonic() - start < seconds):
        step(loaders.on_after_batch_transfer(move_data_to_device(next(batches), device), 0))
        done += 1
    _synchronize(device)
    return (time.monotonic() - start) / done


def _repeated(loaders: SegmentationData) -> Iterator[Any]:
    loader = loaders.train_dataloader()  # one, whose loading processes start once
    while True:
        yield from loader


@torch.inference_mode()
def _time_evaluation(task: TuningTask, loader: DataLoader[Any]) -> float:
    """Return the mean seconds of an image, over those of a few batches."""
    task.eval()
    device, images, start = task.device.type, 0, time.monotonic()
    for number, batch in enumerate(loader):
        if number == 0 and loader.num_workers:  # whose start is not a part of each validation
            start = time.monotonic()
        task.evaluate(move_data_to_device(batch, device))
        images += sum(len(group["image"]) for group in batch)
        if number == 2:
            break
    _synchronize(device)
    return (time.monotonic() - start) / max(1, images)


@torch.inference_mode()
def _time_whole_image(task: TuningTask, dataset: SegmentationDataset) -> float:
    """Return the seconds to read and evaluate an image at its own size."""
    task.model.takes_reduced, start = False, time.monotonic()
    image, target = read_pair(dataset.records[0], dataset.channels)
    batch = [{"image": image[None], "mask": target[None], "index": torch.tensor([0])}]
    task.evaluate(move_data_to_device(batch, task.device.type))
    _synchronize(task.device.type)
    return time.monotonic() - start


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
