"""Find every mistake in a training config at once, before any weight is read or file written.

A check raises a ConfigError for the first mistake it finds; mistakes of different checks are reported together.
"""

import logging
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from finetune.builders.checks.data import DATA_CHECKS
from finetune.builders.checks.model import MODEL_CHECKS, check_task
from finetune.builders.checks.settings import removed_settings, split_unknown, type_errors
from finetune.builders.checks.trainer import (
    check_callbacks,
    check_length,
    check_optimizer,
    check_schedule,
    check_sharding,
    check_trainer,
    check_trainer_numbers,
)
from finetune.builders.checks.tuning import check_average, check_tuning
from finetune.builders.data import prepare_datasets, source_class, training_data
from finetune.builders.dataset_bundle import DatasetBundle
from finetune.builders.devices import SOCKET_FOLDER, decide_for_machine, sockets_fit
from finetune.builders.discovery import AUTO, resolve_task, without_unset, work_out_data
from finetune.builders.image_settings import with_image_settings
from finetune.builders.recipe import resolve_recipe, with_placeholders_for_recipe
from finetune.builders.settings import RecipeSettings
from finetune.config.errors import ConfigError, mistakes_of, raise_mistakes
from finetune.config.nested import select
from finetune.config.options import Config
from finetune.config.settings import as_list
from finetune.models.feature_levels import COARSEST

logger = logging.getLogger(__name__)


def check(config: Config, settles_length: bool = True) -> tuple[dict[str, Any], DatasetBundle]:
    """Find every mistake in a training config; return it with what follows from the files, and its data.

    Every `auto` is replaced, except for the length of a training with a budget of time.

    Args:
        config: of a training.
        settles_length: False also leaves a length in steps, which depends on the batch size, to `with_budget`.

    Raises:
        ConfigError: with all mistakes found.
    """
    known, mistakes = _check_settings(config)
    data = None
    try:
        known, notes = work_out_data(known)
        data = training_data(known)
        known, about_machine = decide_for_machine(known)  # not before: while nothing trains, all cores read files
        resolved = resolve_task(with_image_settings(known, data), data)
        mistakes += mistakes_of((check_task,), resolved) if resolved["task"] != known["task"] else []
        known, reasons = resolve_recipe(resolved, data, settles_length)
        data = replace(data, notes=(*notes, *data.notes), reasons=(*reasons, *about_machine))
        prepare_datasets(data, known)
        mistakes += mistakes_of(DATA_CHECKS, with_placeholders_for_recipe(known), data)
    except (ValueError, TypeError) as error:
        mistakes.append(str(error))
    except ArithmeticError:  # of a number out of range, such as 0 devices, which is among the mistakes
        if not mistakes:
            raise
    raise_mistakes(mistakes)
    assert data is not None
    if known["trainer"]["max_epochs"] != "auto":  # else the length is known once steps are timed
        check_length(with_placeholders_for_recipe(known), data)
    return known, data


def check_without_data(config: Config) -> None:
    """Find every mistake in a training config that shows without looking at the data.

    Raises:
        ConfigError: with all mistakes found.
    """
    raise_mistakes(_check_settings(config)[1])


def _check_settings(config: Config) -> tuple[dict[str, Any], list[str]]:
    """Return the config without unknown settings, and a line for each mistake in its settings.

    Raises:
        ConfigError: settings of another type, on which the other checks rely.
    """
    config = without_unset(config)
    raise_mistakes(removed_settings(config))
    raise_mistakes(type_errors(config))
    known, unknown = split_unknown(config)
    complete, _ = decide_for_machine(with_placeholders_for_recipe(known))
    return known, [*unknown, *mistakes_of(SETTING_CHECKS, complete)]


def check_numbers(config: Config) -> None:
    """Raise a ConfigError if a count is below its minimum, or another setting is out of its range."""
    minimum = {"data.batch_size": 1, "data.num_workers": 0, "seed": 0}
    minimum |= {"backbone.in_channels": 1} if config["backbone"]["in_channels"] != "auto" else {}
    minimum |= {"trainer.max_epochs": 1, "trainer.accumulate_grad_batches": 1}
    for key, low in minimum.items():
        value: Any = select(config, key)
        if type(value) is not int or value < low:
            raise ConfigError(f"{key}={value}: expected a whole number of {low} or more.")
    if not isinstance(config["name"], str) or not config["name"]:
        raise ConfigError(f"name={config['name']}: expected text; the run folder is named after it.")
    if config["seed"] >= 2**32:
        raise ConfigError(f"seed={config['seed']}: expected a number below {2**32}.")


def check_workers(config: Config) -> None:
    """Raise a ConfigError if loading processes could not pass tensors on; they would wait for ever, without a word."""
    if config["data"]["num_workers"] and not sockets_fit():
        raise ConfigError(
            f"data.num_workers={config['data']['num_workers']}: the path of the temporary folder, "
            f"{tempfile.gettempdir()}, is too long for the sockets of loading processes. Set TMPDIR to a path of at "
            f"most {SOCKET_FOLDER} bytes, or data.num_workers=0."
        )


def check_data(config: Config) -> None:
    """Raise a ConfigError unless `data.format` is a source, and classes have names."""
    classes = config["data"].get("classes")
    if isinstance(classes, dict) and not any(isinstance(name, str) for name in classes):
        hint = as_list("data.classes", classes, Sequence[str])
        raise ConfigError(f"data.classes={classes}: expected names, with their values in the masks if need be.{hint}")
    if config["data"]["format"] != AUTO:
        source_class(config["data"]["format"])


def check_soup(config: Config) -> None:
    """Raise a ConfigError if a mean of the best checkpoints is wanted, and only one is kept."""
    soup = config.get("soup", False)  # runs of earlier versions have none
    if not isinstance(soup, bool):
        raise ConfigError(f"soup={soup}: expected true or false.")
    if soup and config["checkpoint"]["keep_best"] < 2:
        raise ConfigError(
            f"soup=true takes the mean of the best checkpoints, but checkpoint.keep_best="
            f"{config['checkpoint']['keep_best']}. Set checkpoint.keep_best=3."
        )


def check_recipe(config: Config) -> None:
    """Raise a ConfigError if a number of the recipe is out of its range."""
    settings = RecipeSettings(**(config.get("recipe") or {}))
    if not 0 < settings.length < math.inf:
        raise ConfigError(
            f"recipe.length={settings.length}: expected a number above 0, such as 0.5 for half the steps."
        )
    if settings.largest_crop is not None and settings.largest_crop < COARSEST:
        raise ConfigError(f"recipe.largest_crop={settings.largest_crop}: expected {COARSEST} pixels or more, or null.")


SETTING_CHECKS: tuple[Callable[[Config], None], ...] = (
    check_numbers,
    check_workers,
    check_data,
    *MODEL_CHECKS,
    check_tuning,
    check_average,
    check_optimizer,
    check_schedule,
    check_trainer,
    check_trainer_numbers,
    check_callbacks,
    check_sharding,
    check_soup,
    check_recipe,
)
