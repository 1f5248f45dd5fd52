"""Length of a training in steps, and the fewest epochs until its score can plateau."""

import math
from typing import Any

from finetune.builders.devices import device_count
from finetune.config.options import Config
from finetune.recipe.budget import Length
from finetune.tuning.plan_feasibility import min_epochs_per_plateau, validations_per_epoch


def step_counts(config: Config, images: int) -> tuple[int, int]:
    """Return the optimizer steps of an epoch and of the whole training.

    Args:
        config: config of a training.
        images: number of training images.
    """
    settings, max_steps = config["trainer"], config["trainer"].get("max_steps", -1)
    steps = math.ceil(_batches(config, images) / settings["accumulate_grad_batches"])
    total = int(settings["max_epochs"]) * steps
    return steps, total if max_steps == -1 else min(int(max_steps), total)


def with_length(config: Config, length: Length, images: int) -> dict[str, Any]:
    """Return the config of a training of this length, whose validations do not wait for the end of an epoch.

    Validations that the settings of the trainer space otherwise stay as they are.

    Args:
        config: config of a training.
        length: in steps.
        images: number of training images.
    """
    settings, batches = config["trainer"], _batches(config, images)
    in_step = min(settings["accumulate_grad_batches"], batches)
    steps, left_over = divmod(batches, in_step)
    changed: dict[str, Any] = {"max_steps": length.steps}
    if spaces_validations(settings):
        every = settings["check_val_every_n_epoch"]
        steps = math.ceil(batches / in_step)
        changed |= {"check_val_every_n_epoch": 1 if every == "auto" else every}
    else:
        changed |= {"check_val_every_n_epoch": None, "val_check_interval": length.steps_between * in_step}
        if left_over:  # the last step of an epoch would have fewer batches, and batches would not count steps
            limit = "overfit_batches" if settings.get("overfit_batches") else "limit_train_batches"
            changed[limit] = batches - left_over
    changed["max_epochs"] = math.ceil(length.steps / steps)
    return {**config, "trainer": {**settings, **changed}}


def spaces_validations(settings: Config) -> bool:
    """Return whether settings of the Trainer say when to validate."""
    return settings["check_val_every_n_epoch"] != "auto" or settings.get("val_check_interval") is not None


def min_plateau_epochs(config: Config, images: int) -> int:
    """Return the fewest epochs after which the score can count as plateaued.

    Args:
        config: config of a training.
        images: number of training images.
    """
    settings, batches = config["trainer"], _batches(config, images)
    interval = settings.get("val_check_interval") or 1.0
    interval = interval if isinstance(interval, int | float) else 1.0  # may be a time
    between = interval if isinstance(interval, int) else max(1, int(batches * interval))
    validations = validations_per_epoch(batches, between, settings.get("check_val_every_n_epoch"))
    return min_epochs_per_plateau(config["tuning"]["plateau"]["patience"], validations)


def _batches(config: Config, images: int) -> int:
    """Return the batches of an epoch on each device, within a limit of the Trainer."""
    settings, batches = config["trainer"], batches_per_device(config, images)
    limit = settings.get("overfit_batches") or settings.get("limit_train_batches")
    limit = 1.0 if limit is None else limit
    return min(batches, limit) if isinstance(limit, int) else max(1, int(batches * limit))


def steps_of_epoch(config: Config, images: int) -> int:
    """Return the optimizer steps of an epoch whose last batches fill a step."""
    batches = _batches(config, images)
    return batches // min(int(config["trainer"]["accumulate_grad_batches"]), batches)


def batches_per_device(config: Config, images: int) -> int:
    """Return the batches of an epoch on each device; images that do not fill one are left out."""
    batch_size = max(1, config["data"]["batch_size"])  # a smaller one is reported elsewhere
    return max(1, int(images // device_count(config["trainer"]) // batch_size))
