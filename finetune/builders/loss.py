"""Build the loss of a config."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from finetune.builders.data import loss_weights
from finetune.builders.dataset_bundle import DatasetBundle
from finetune.builders.targets import find_class
from finetune.config.errors import ConfigError
from finetune.config.options import Config, drop_name, validate_options
from finetune.io.messages import suggest
from finetune.losses import LOSSES, Loss


def build_loss(settings: Config, ignore_index: int, class_weights: torch.Tensor | None) -> Loss:
    """Build the loss.

    Args:
        settings: of the group `loss`.
        ignore_index: label of the pixels to leave out.
        class_weights: (K,), or None if all classes count the same.

    Raises:
        ConfigError: an unknown loss, or an option that it does not have.
        ValueError: an option out of its range.
    """
    loss_type = find_loss(settings)
    options = {**drop_name(settings), "ignore_index": ignore_index}
    if "class_weights" in options:
        options["class_weights"] = class_weights
    if "target" in options:  # a loss of another package, by its dotted name
        options["target"] = find_class(options["target"], nn.Module, "loss.target")
    return loss_type(**options)


def find_loss(settings: Config) -> type[Loss]:
    """Return the class of a loss.

    Raises:
        ConfigError: an unknown name, or an option that the loss does not have.
    """
    name = settings["name"]
    if name not in LOSSES:
        raise ConfigError(f"unknown loss.name '{name}'. {suggest(str(name), LOSSES)}")
    validate_options(f"loss={name}", LOSSES[name], drop_name(settings), skip=("ignore_index",))
    return LOSSES[name]


def build_class_weights(settings: Config, data: DatasetBundle) -> torch.Tensor | None:
    """Return the weights of the classes (K,), float32, or None if all count the same.

    Args:
        settings: of the group `loss`; `class_weights` is a rule's name or a list of numbers.
        data: whose training masks are counted for a rule.

    Raises:
        ConfigError: a list that does not fit the classes.
    """
    rule = settings.get("class_weights", "none")
    if isinstance(rule, str):
        return loss_weights(rule, data)
    check_class_weights(rule, data.classes)
    return torch.tensor(rule, dtype=torch.float32)


def check_class_weights(weights: Any, classes: Sequence[str] | None = None) -> None:
    """Raise ConfigError unless weights given by hand are numbers of 0 or more, not all 0, and one per class."""
    numbers = isinstance(weights, list) and all(
        isinstance(w, int | float) and not isinstance(w, bool) and 0 <= w < math.inf for w in weights
    )
    if not numbers or not any(weights):
        raise ConfigError(
            f"loss.class_weights={weights}: expected none, the name of a rule, or a list with a number of 0 or more "
            f"for each class, such as [1,20]."
        )
    if classes is not None and len(weights) != len(classes):
        raise ConfigError(
            f"loss.class_weights={weights}: {len(weights)} weights for {len(classes)} classes ({', '.join(classes)}). "
            f"Give one weight per class, in this order."
        )
