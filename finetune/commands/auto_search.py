"""Finds what a config leaves open: `optimizer.lr=auto` and `data.batch_size=auto`."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from finetune.builders.checks.training import check
from finetune.builders.data import DatasetBundle, build_datamodule
from finetune.builders.devices import autocast_dtype, device_type
from finetune.builders.dummy_step import batch_shape, noise_step
from finetune.builders.task import build_optimizer, build_task, task_without_weights
from finetune.config.compose import load_config
from finetune.config.errors import ConfigError, usage
from finetune.plots import lr_curve_figure
from finetune.profiling import batch_size, memory
from finetune.runs.console import configure_logging
from finetune.runs.prepare import initial_model
from finetune.tuning import lr_finder
from finetune.tuning.freeze import apply_trainability
from finetune.tuning.groups import optimizer_groups
from finetune.tuning.lr_finder import LRFinding

logger = logging.getLogger(__name__)
AUTO = {"data": ("batch_size", 2), "optimizer": ("lr", 1e-3)}  # what may be found, and what stands in for it till then
SPARE = 0.9  # of the largest batch that fits: memory gets fragmented in a long training


def find_lr(*words: str | DictConfig, picture: str | Path | None = None) -> LRFinding:
    """Search a learning rate for a training, by a range test from its start.

    Args:
        words: the words of `finetune train`.
        picture: where to draw the curve; None draws none.
    """
    config, _ = with_placeholders(load_config(words, "train"))
    configure_logging()
    with usage():
        data = check(config)
    return _find_lr(config, data, Path(picture) if picture is not None else None)


def find_batch_size(*words: str | DictConfig) -> int:
    """Search the largest batch size, with some memory to spare, at which everything could train.

    Args:
        words: the words of `finetune train`.
    """
    config, _ = with_placeholders(load_config(words, "train"))
    configure_logging()
    with usage():
        data = check(config)
    return _find_batch_size(config, data)


def with_placeholders(config: dict[str, Any], alone: bool = True) -> tuple[dict[str, Any], set[str]]:
    """The config with a number wherever it says `auto`, and the groups that said so.

    Args:
        config: of a training.
        alone: whether a search follows, for which there must be one device.

    Raises:
        ConfigError: a training that would go on, or a search that would have to run on several devices.
    """
    if config["resume"]:
        raise ConfigError("this looks at a training from its start, and resume goes on with one. Leave resume out.")
    found = {group for group, (key, _) in AUTO.items() if config[group][key] == "auto"}
    if alone and found and config["trainer"]["devices"] not in (1, "1"):
        words = " and ".join(f"{group}.{AUTO[group][0]}=auto" for group in sorted(found))
        raise ConfigError(
            f"{words} searches on one device, but trainer.devices={config['trainer']['devices']}. Search once with "
            f"trainer.devices=1 trainer.max_epochs=1, then give the number that the log names."
        )
    settled = {group: {**config[group], AUTO[group][0]: AUTO[group][1]} for group in found}
    return {**config, **settled}, found


def resolve_auto(
    config: dict[str, Any], data: DatasetBundle, open_groups: set[str]
) -> tuple[dict[str, Any], LRFinding | None]:
    """The config with what was found, and how the learning rate was."""
    finding = None
    if "data" in open_groups:
        config = {**config, "data": {**config["data"], "batch_size": _find_batch_size(config, data)}}
    if "optimizer" in open_groups:
        finding = _find_lr(config, data, None)
        config = {**config, "optimizer": {**config["optimizer"], "lr": _rate(config, finding)}}
    return config, finding


def save_lr_figure(finding: LRFinding, picture: Path) -> None:
    """Draw the loss over the learning rate, with what each rule suggests."""
    picture.parent.mkdir(parents=True, exist_ok=True)
    curves = (finding.rates, finding.losses, finding.smoothed)
    lr_curve_figure(*curves, finding.suggestions, picture, finding.suggestion)


def _find_lr(config: Mapping[str, Any], data: DatasetBundle, picture: Path | None) -> LRFinding:
    task = build_task(config, initial_model(config, data)[0], data)
    apply_trainability(
        task.model, task.trainable_at_any_time(), task.norms()
    )  # what suits the head alone may be too high later
    where, half = device_type(config), autocast_dtype(config)
    half = None if half is torch.float16 else half  # its gradients vanish without the scaling of a training
    task.to(where)
    parameters = dict(task.model.named_parameters())
    settings = config["optimizer"]
    optimizer = build_optimizer(optimizer_groups(task.groups, parameters), settings)

    def loss_of_batch(batch: Mapping[str, Tensor]) -> Tensor:
        with torch.autocast(where, half or torch.bfloat16, enabled=half is not None):
            loss, auxiliary = task.losses({key: values.to(where) for key, values in batch.items()})
        return loss + auxiliary + task.penalty()

    _clip(optimizer, config["trainer"])
    batches, accumulate = (
        build_datamodule(config, data).train_dataloader(),
        config["trainer"]["accumulate_grad_batches"],
    )
    finding = lr_finder.find_lr(task.model, loss_of_batch, optimizer, batches, accumulate=accumulate)
    try:
        others = ", ".join(f"{rule} {rate:.1e}" for rule, rate in finding.suggestions.items())
    except ValueError as error:
        raise ConfigError(f"optimizer.lr=auto finds nothing: {error} Or set optimizer.lr yourself.") from error
    logger.info(f"learning rate found: {_rate(config, finding):.1e} ({others})")
    if picture is not None:
        save_lr_figure(finding, picture)
    return finding


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
    """The optimizer's learning rate at which the fastest layer group has the suggested one."""
    return float(f"{config['optimizer']['lr'] * finding.suggestion / finding.base:.3g}")


def _memory_limit(config: Mapping[str, Any]) -> int | None:
    """Bytes of main memory that a search on the CPU may take; a GPU says itself when there is no more."""
    free, held = memory.available(), memory.resident()
    return None if device_type(config) != "cpu" or free is None or held is None else held + int(SPARE * free)


def _find_batch_size(config: Mapping[str, Any], data: DatasetBundle) -> int:
    task = task_without_weights(config, data.classes)
    apply_trainability(task.model, task.places)  # the phase in which most trains needs most

    def try_step(size: int) -> None:
        noise_step(config, task, (size, *batch_shape(config)[1:]))()

    limit = max(2, min(data.sizes()["train"], 1024))
    largest = batch_size.find_batch_size(try_step, limit=limit, memory_limit=_memory_limit(config))
    chosen = largest if largest in (1, limit) else max(1, int(largest * SPARE))
    logger.info(f"batch size found: {chosen} (of {largest} that fit)")
    return chosen
