"""What the rounding of a training depends on besides its config: noted in checkpoints, compared by who goes on."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.distributed import _suggested_max_num_threads


def numerics_environment(trainer: pl.Trainer) -> dict[str, Any]:
    """Plain facts by name, the same before a trainer has launched its ranks and after."""
    device = trainer.strategy.root_device
    found = {
        "finetune": version("finetune-seg"),
        "torch": str(torch.__version__),
        "devices": trainer.num_devices * trainer.num_nodes,
        "strategy": type(trainer.strategy).__name__,
        "accelerator": device.type,
        "device": device_name(device),
        "precision": str(trainer.precision),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }
    return {**found, "threads": _threads(trainer)} if device.type == "cpu" else found


def device_name(device: torch.device) -> str:
    """Which make of processor or GPU it is, as far as the system tells."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.is_file() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, "") or platform.processor() or platform.machine()


def _threads(trainer: pl.Trainer) -> int:
    """Of each rank; Lightning divides the cores among those that it launches, unless told how many to use."""
    if trainer.strategy.launcher is not None and "OMP_NUM_THREADS" not in os.environ:
        return _suggested_max_num_threads(trainer.num_devices)
    return torch.get_num_threads()
