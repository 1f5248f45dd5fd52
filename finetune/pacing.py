"""How many steps a training has, on how many devices, and how soon its score can have stopped improving."""

import math

import torch

from finetune.options import Config
from finetune.tuning.scenarios import stall_pace


def device_count(settings: Config) -> int:
    """Devices of all nodes that a trainer's settings speak of; what Lightning would refuse counts as one.

    >>> [device_count({"devices": devices, "num_nodes": 3}) for devices in (2, [1, 3], "0,1,2", "many")]
    [6, 6, 9, 3]
    """
    devices, nodes = settings["devices"], int(settings.get("num_nodes", 1))
    if str(devices) in ("auto", "-1"):
        on_gpu = settings["accelerator"] in ("auto", "gpu", "cuda")
        return max(1, torch.cuda.device_count() if on_gpu else 0) * nodes
    listed = [part for part in str(devices).strip("[]").split(",") if part.strip()]
    if isinstance(devices, list) or "," in str(devices):
        return len(listed) * nodes
    return max(1, int(devices) if str(devices).isdigit() else 1) * nodes


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


def pace(config: Config, images: int) -> int:
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
    return stall_pace(config["tuning"]["stall"]["patience"], validations)


def _batches(config: Config, images: int) -> int:
    """Batches of an epoch on each device."""
    settings = config["trainer"]
    limit = settings.get("limit_train_batches", 1.0)
    batches = max(1, images // device_count(settings) // config["data"]["batch_size"])
    return min(batches, limit) if isinstance(limit, int) else max(1, int(batches * limit))
