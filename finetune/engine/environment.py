"""Facts, other than the config, on which the rounding of a training depends; checkpoints store them for the resume."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from finetune.engine.lightning_private import threads_per_process


def numerics_environment(trainer: pl.Trainer) -> dict[str, Any]:
    """Return versions, devices and precision by name, the same before and after a trainer launches its ranks."""
    device = trainer.strategy.root_device
    facts = {
        "finetune": version("finetune-seg"),
        "torch": str(torch.__version__),
        "devices": trainer.num_devices * trainer.num_nodes,
        "strategy": type(trainer.strategy).__name__,
        "accelerator": device.type,
        "device": device_name(device),
        "precision": str(trainer.precision),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }
    return {**facts, "threads": _threads(trainer)} if device.type == "cpu" else facts


def device_name(device: torch.device) -> str:
    """Return the model of the processor or GPU, as far as the system reports it."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text().splitlines() if cpu_info.is_file() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, "") or platform.processor() or platform.machine()


def _threads(trainer: pl.Trainer) -> int:
    """Return the threads of each rank; without OMP_NUM_THREADS, Lightning divides the cores among launched ranks."""
    if trainer.strategy.launcher is not None and "OMP_NUM_THREADS" not in os.environ:
        return threads_per_process(trainer.num_devices)
    return torch.get_num_threads()
