"""Search settings by training steps: `optimizer.lr=auto` and `data.batch_size=largest`."""

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from finetune.builders.checks.trainer import check_budget
from finetune.builders.checks.training import check
from finetune.builders.data import build_datamodule
from finetune.builders.dataset_bundle import DatasetBundle
from finetune.builders.devices import autocast_dtype, device_count, device_type, on_training_device
from finetune.builders.dummy_step import batch_shape, noise_step, training_precision
from finetune.builders.recipe import with_placeholders_for_recipe
from finetune.builders.task import build_optimizer, build_task, task_without_weights
from finetune.config.compose import load_config
from finetune.config.errors import ConfigError, usage
from finetune.config.nested import select, with_value
from finetune.config.settings import SEARCHED
from finetune.data.augmentation.device_color import with_colors
from finetune.plots import lr_curve_figure
from finetune.profiling import batch_size, memory
from finetune.runs.console import configure_logging
from finetune.runs.prepare import initial_model
from finetune.tuning import lr_finder
from finetune.tuning.freeze import apply_trainability
from finetune.tuning.groups import optimizer_groups
from finetune.tuning.lr_finder import LRFinding

logger = logging.getLogger(__name__)
MEMORY_SAFETY_FACTOR = 0.9  # of the largest batch that fits: memory gets fragmented in a long training


def find_lr(*overrides: str | DictConfig, figure: str | Path | None = None) -> LRFinding:
    """Search the learning rate of a training by a range test from its start.

    Args:
        overrides: of `finetune train`.
        figure: file to draw the curve to; None draws none.
    """
    config, data = _checked(overrides)
    return _find_lr(config, data, Path(figure) if figure is not None else None)


def find_batch_size(*overrides: str | DictConfig) -> int:
    """Search the largest batch size, with some memory to spare, at which everything could train.

    Args:
        overrides: of `finetune train`.
    """
    return _find_batch_size(*_checked(overrides))


def _checked(overrides: Sequence[str | DictConfig]) -> tuple[dict[str, Any], DatasetBundle]:
    config, _ = with_placeholders(load_config(overrides, "train"))
    configure_logging()
    with usage():
        check_budget(config)
        config, data = check(config)
    return with_placeholders_for_recipe(config), data


def with_placeholders(config: dict[str, Any], search: bool = True) -> tuple[dict[str, Any], list[str]]:
    """Replace every setting that is to be searched by a placeholder.

    Args:
        config: of a training.
        search: whether a search follows, which needs a single device.

    Returns:
        The config, and the keys of these settings.

    Raises:
        ConfigError: a training to be resumed, or a search on several devices.
    """
    if config["resume"]:
        raise ConfigError(
            "a plan or a search is of a training from its beginning, but resume continues one. Leave resume out."
        )
    searched = [key for key, (value, _) in SEARCHED.items() if select(config, key) == value]
    if search and searched and device_count(config["trainer"]) > 1:
        raise ConfigError(
            f"{' and '.join(map(searched_setting, searched))} is searched on one device, but trainer.devices="
            f"{config['trainer']['devices']}. Search once with trainer.devices=1 trainer.max_epochs=1, then set the "
            f"value that the log shows."
        )
    for key in searched:
        config = with_value(config, key, SEARCHED[key][1])
    return config, searched


def searched_setting(key: str) -> str:
    """Return the setting that asks for a search.

    >>> searched_setting("data.batch_size")
    'data.batch_size=largest'
    """
    return f"{key}={SEARCHED[key][0]}"


def resolve_auto(
    config: dict[str, Any], data: DatasetBundle, searched: Collection[str]
) -> tuple[dict[str, Any], LRFinding | None]:
    """Search the given settings.

    Returns:
        The config with the values found, and the result of the learning-rate search, if there was one.
    """
    finding = None
    if "data.batch_size" in searched:
        config = with_value(config, "data.batch_size", _find_batch_size(with_placeholders_for_recipe(config), data))
    if "optimizer.lr" in searched:
        finding = _find_lr(with_placeholders_for_recipe(config), data, None)
        config = with_value(config, "optimizer.lr", _rate(config, finding))
    return config, finding


def save_lr_figure(finding: LRFinding, path: Path) -> None:
    """Draw the loss over the learning rate, with the suggestion of each rule."""
    path.parent.mkdir(parents=True, exist_ok=True)
    curves = (finding.rates, finding.losses, finding.smoothed)
    lr_curve_figure(*curves, finding.suggestions, path, finding.suggestion)


def _find_lr(config: Mapping[str, Any], data: DatasetBundle, figure: Path | None) -> LRFinding:
    with on_training_device(config):
        finding = _search_lr(config, data)
    try:
        others = ", ".join(f"{rule} {rate:.1e}" for rule, rate in finding.suggestions.items())
    except ValueError as error:
        raise ConfigError(f"optimizer.lr=auto finds nothing: {error}") from error
    logger.info(f"learning rate found: {_rate(config, finding):.1e} ({others})")
    if figure is not None:
        save_lr_figure(finding, figure)
    return finding


def _search_lr(config: Mapping[str, Any], data: DatasetBundle) -> LRFinding:
    task = build_task(config, initial_model(config, data)[0], data)
    # everything that ever trains: a rate that suits the head alone may be too high later
    apply_trainability(task.model, task.trainable_at_any_time(), task.norms())
    device, dtype = device_type(config), autocast_dtype(config)
    dtype = None if dtype is torch.float16 else dtype  # its gradients vanish without the scaling of a training
    task.to(device)
    parameters = dict(task.model.named_parameters())
    optimizer = build_optimizer(optimizer_groups(task.groups, parameters), config["optimizer"])

    def loss_of_batch(batch: Mapping[str, Tensor]) -> Tensor:
        with training_precision(task, device, dtype):
            loss, auxiliary = task.losses(with_colors({key: values.to(device) for key, values in batch.items()}))
        return loss + auxiliary + task.penalty()

    _clip(optimizer, config["trainer"])
    batches = build_datamodule(config, data).train_dataloader()
    accumulated = config["trainer"]["accumulate_grad_batches"]
    return lr_finder.find_lr(task.model, loss_of_batch, optimizer, batches, accumulate=accumulated)


def _clip(optimizer: torch.optim.Optimizer, settings: Mapping[str, Any]) -> None:
    """Clip gradients before each step, as the trainer would."""
    limit, by_value = settings["gradient_clip_val"], settings.get("gradient_clip_algorithm") == "value"
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    clip = torch.nn.utils.clip_grad_value_ if by_value else torch.nn.utils.clip_grad_norm_

    def before_step(*_: Any) -> None:
        clip(parameters, limit)

    if limit:
        optimizer.register_step_pre_hook(before_step)


def _rate(config: Mapping[str, Any], finding: LRFinding) -> float:
    """Return the optimizer's learning rate at which the fastest layer group has the suggested one."""
    return float(f"{config['optimizer']['lr'] * finding.suggestion / finding.base:.3g}")


def _memory_limit(config: Mapping[str, Any]) -> int | None:
    """Return the bytes of main memory that a search on the CPU may take; a GPU raises an error when it is full."""
    free, held = memory.available(), memory.resident()
    is_unlimited = device_type(config) != "cpu" or free is None or held is None
    return None if is_unlimited else (held or 0) + int(MEMORY_SAFETY_FACTOR * (free or 0))


def _find_batch_size(config: Mapping[str, Any], data: DatasetBundle) -> int:
    task = task_without_weights(config, data.model_classes)
    apply_trainability(task.model, task.places, task.norms())  # the phase in which most trains needs most memory

    def try_step(size: int) -> None:
        noise_step(config, task, (size, *batch_shape(config)[1:]))()

    limit = max(2, min(data.sizes()["train"], 1024))
    with on_training_device(config):
        largest = batch_size.find_batch_size(try_step, limit=limit, memory_limit=_memory_limit(config))
    chosen = largest if largest in (1, limit) else max(1, int(largest * MEMORY_SAFETY_FACTOR))
    logger.info(f"batch size found: {chosen} (of {largest} that fit)")
    return chosen
