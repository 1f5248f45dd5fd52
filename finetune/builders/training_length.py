"""How many steps a training has, on how many devices, and how soon its score can have stopped improving."""

import math

from finetune.builders.devices import device_count
from finetune.config.options import Config
from finetune.tuning.plan_feasibility import min_epochs_per_plateau


def step_counts(config: Config, images: int) -> tuple[int, int]:
    """Optimizer steps of an epoch on each device, and of the whole training.

    Args:
        config: of a training.
        images: to train on.
    """
    settings, most = config["trainer"], config["trainer"].get("max_steps", -1)
    steps = math.ceil(_batches(config, images) / settings["accumulate_grad_batches"])
    total = int(settings["max_epochs"]) * steps
    return steps, total if most == -1 else min(int(most), total)


def min_plateau_epochs(config: Config, images: int) -> int:
    """Epochs that it takes at least to see that the score has stopped improving.

    Args:
        config: of a training.
        images: to train on.
    """
    settings, batches = config["trainer"], _batches(config, images)
    interval = settings.get("val_check_interval") or 1.0
    interval = interval if isinstance(interval, int | float) else 1.0  # by the clock
    between = interval if isinstance(interval, int) else max(1, int(batches * interval))
    validations = (batches // between or batches / between) / (settings.get("check_val_every_n_epoch") or 1)
    return min_epochs_per_plateau(config["tuning"]["plateau"]["patience"], validations)


def _batches(config: Config, images: int) -> int:
    """Batches of an epoch on each device."""
    settings = config["trainer"]
    limit = settings.get("limit_train_batches", 1.0)
    batches = max(1, images // device_count(settings) // config["data"]["batch_size"])
    return min(batches, limit) if isinstance(limit, int) else max(1, int(batches * limit))
