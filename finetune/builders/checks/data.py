"""Find mistakes that show once the data is known: batches, sizes, classes, and limits of Lightning's Trainer."""

import logging
import math
from collections.abc import Callable, Mapping

from finetune.builders.checks.monitors import check_monitors, monitored
from finetune.builders.dataset_bundle import DatasetBundle
from finetune.builders.devices import device_count
from finetune.builders.dummy_step import layer_without_variance
from finetune.builders.loss import check_class_weights
from finetune.builders.task import find_task, restore_output, task_settings
from finetune.builders.training_length import batches_per_device
from finetune.config.errors import ConfigError
from finetune.config.options import Config
from finetune.data.objects import background_index
from finetune.io.messages import shortlist

logger = logging.getLogger(__name__)


def check_batches(config: Config, data: DatasetBundle) -> None:
    """Raise a ConfigError if a batch norm would see one value per channel, which has no variance."""
    if config["data"]["batch_size"] > 1:
        return  # batches are always full: where there are fewer images, they have several crops of an image
    if layer := layer_without_variance(config, data.model_classes):
        raise ConfigError(
            f"batches of one image do not train backbone={config['backbone']['name']} with "
            f"head={config['head']['name']}: they leave the batch norm {layer} one value a channel, which has no "
            f"variance. Set data.batch_size=2 or more, or another backbone."
        )
    logger.warning("batches of one image make batch-norm statistics noisy; data.batch_size=2 or more is better.")


def check_targets(config: Config, data: DatasetBundle) -> None:
    """Raise a ValueError unless the masks are as the task needs them."""
    task = find_task(task_settings(config))
    task.check_target(data.datasets["train"][0]["mask"], data.classes, data.ignore_index)


def check_numbers_per_class(config: Config, data: DatasetBundle) -> None:
    """Raise a ConfigError unless the task's options, such as thresholds, and class weights fit the classes."""
    restore_output(task_settings(config), data.model_classes)
    weights = config["loss"].get("class_weights", "none")
    if not isinstance(weights, str):
        check_class_weights(weights, data.classes)


def check_sampling_weights(config: Config, data: DatasetBundle) -> None:
    """Raise a ConfigError if no training image may be drawn."""
    weights = data.datasets["train"].weights
    if weights is not None and not any(weights):
        raise ConfigError(
            f"all {len(weights):,} training images have the weight 0, so none is trained on. Give some of them a "
            f"weight above 0, or leave the column out."
        )


def check_truth(config: Config, data: DatasetBundle) -> None:
    """Raise a ConfigError if a split has no pixel that counts, or none of a class whose score is monitored."""
    if empty := [split for split, statistics in data.statistics.items() if not statistics.pixels.sum()]:
        raise ConfigError(
            f"every pixel of the {' and '.join(empty)} masks has the label {data.ignore_index} and is ignored. Check "
            f"data.ignore_index and data.mask_values, or put other images into the split."
        )
    if data.objects is not None:
        things = [index for index in range(len(data.classes)) if index != background_index(data.classes)]
        if empty := [split for split, each in data.statistics.items() if not each.pixels[things].sum()]:
            raise ConfigError(
                f"no {' and no '.join(empty)} image has an object, so there is nothing to learn or to score. Put "
                f"images with objects into each split, or check data.classes."
            )
    for group, monitor in monitored(config).items():
        name = monitor.removeprefix("val/iou/")
        if monitor != name and name in data.classes and not data.statistics["val"].pixels[data.classes.index(name)]:
            raise ConfigError(
                f"{group}.monitor={monitor}: no val image has the class '{name}', so it has no score. Monitor val/iou, "
                f"or put images with the class into the val split."
            )


def check_image_sizes(config: Config, data: DatasetBundle) -> None:
    """Raise a ConfigError if training images of different sizes would meet in one batch or one sample."""
    settings, sizes = config["augment"], data.statistics["train"].sizes
    ours = ("finetune.data.Augment", "finetune.data.TrivialAugment")
    if settings["_target_"] not in ours or settings.get("crop", "the default") is not None:
        return
    if len(sizes) > 1 and (config["data"]["batch_size"] > 1 or data.datasets["train"].mix is not None):
        named = shortlist((f"{height}x{width}" for height, width in sorted(sizes)), 4)
        raise ConfigError(
            f"augment.crop=null keeps the size of each image, but the training images have {len(sizes)} sizes "
            f"(height x width): {named}. Images that are mixed or in one batch must have one size: set "
            f"augment.crop, or data.batch_size=1 without augment.mix."
        )


def check_limits(config: Config, data: DatasetBundle) -> None:
    """Raise a ConfigError if a limit of the Trainer leaves no batch, or no validation."""
    settings, batches = config["trainer"], batches_per_device(config, data.sizes()["train"])
    _check_overfitting(settings, config["data"]["batch_size"], data.sizes())
    limit = settings.get("limit_train_batches", 1.0)
    if isinstance(limit, float) and 0 < limit < 1 and int(limit * batches) < 1:
        raise ConfigError(
            f"trainer.limit_train_batches={limit} of {batches} batches is none. Set a whole number of batches."
        )
    for split in ("val", "test"):
        limit, images = settings.get(f"limit_{split}_batches"), data.sizes().get(split, 0)
        # the fewest of all devices
        fewest = math.ceil(images / max(1, config["data"]["batch_size"])) // device_count(settings)
        if isinstance(limit, float) and images and 0 < limit < 1 and int(limit * fewest) < 1:
            raise ConfigError(
                f"trainer.limit_{split}_batches={limit} of {fewest} batches is none. Set a whole number of batches."
            )
    if not any(settings.get(f"limit_{split}_batches") != 0 for split in ("val", "test") if data.sizes().get(split)):
        raise ConfigError("trainer.limit_val_batches=0 and no test images: nothing would be scored. Leave it out.")
    interval = settings.get("val_check_interval")
    by_epoch = settings.get("check_val_every_n_epoch", 1) is not None
    if isinstance(interval, int) and not isinstance(interval, bool) and by_epoch and interval > batches:
        raise ConfigError(
            f"trainer.val_check_interval={interval}, but an epoch has {batches} batches. Set at most that, or "
            f"trainer.check_val_every_n_epoch=null to count batches across epochs."
        )


def _check_overfitting(settings: Config, batch_size: int, images: Mapping[str, int]) -> None:
    """Raise a ConfigError if the batches of `overfit_batches`, which Lightning takes itself, would be none."""
    limit = settings.get("overfit_batches") or 0
    if limit and images["train"] < batch_size:
        raise ConfigError(
            f"trainer.overfit_batches={limit} takes full batches, but there are {images['train']} training images for "
            f"data.batch_size={batch_size}. Set data.batch_size={images['train']} or less."
        )
    for split, batches in (("train", images["train"] // batch_size), ("val", math.ceil(images["val"] / batch_size))):
        if isinstance(limit, float) and 0 < limit < 1 and int(limit * batches) < 1:
            raise ConfigError(
                f"trainer.overfit_batches={limit} of {batches} {split} batches is none. Set a whole number of batches."
            )


DATA_CHECKS: tuple[Callable[[Config, DatasetBundle], None], ...] = (
    check_monitors,
    check_targets,
    check_numbers_per_class,
    check_batches,
    check_sampling_weights,
    check_truth,
    check_image_sizes,
    check_limits,
)
