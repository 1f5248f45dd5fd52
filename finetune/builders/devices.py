"""Devices and precision of a training, from its settings."""

import math
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

import torch

from finetune.config.options import Config
from finetune.data.processes import cores

MOST_WORKERS = 8  # for each device
SHARED_MEMORY = 2**30  # bytes that loading processes should have to pass batches on
SOCKET_FOLDER = 75  # longest path of a folder that sockets are bound in, bytes; Linux takes 107 with the name


def resolve_precision(settings: Config) -> str:
    """Return the precision; `auto` is bf16-mixed if the device multiplies such matrices, else 32-true."""
    if settings["precision"] != "auto":
        return str(settings["precision"])
    on_gpu = torch.cuda.is_available() and settings["accelerator"] in ("auto", "gpu", "cuda")
    fast = torch.cuda.is_bf16_supported(including_emulation=False) if on_gpu else _cpu_computes_bf16()
    return "bf16-mixed" if fast else "32-true"


def _cpu_computes_bf16() -> bool:
    # bfloat16 without matrix tiles is 1.3 times slower than float32 in a training, and without AVX-512 ten times;
    # torch has no public name for this check
    return bool(torch.backends.mkldnn.is_available()) and torch.cpu._is_amx_tile_supported()  # type: ignore[no-untyped-call]


def runs_on_cpu(settings: Config) -> bool:
    """Return whether a Trainer with these settings computes on the CPU."""
    accelerated = torch.cuda.is_available() or torch.backends.mps.is_available()
    return settings["accelerator"] == "cpu" or (settings["accelerator"] == "auto" and not accelerated)


def device_count(settings: Config) -> int:
    """Return the number of devices on all nodes; settings that Lightning would reject count as one device.

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


def resolve_workers(workers: int | str, settings: Config) -> int:
    """Return the number of loading processes; `auto` is 0 on a CPU, and the cores of each GPU but one, at most 8.

    A training on the CPU computes on all of its cores, and loading processes would take time from it.

    Args:
        workers: a number or `auto`.
        settings: of the Trainer.
    """
    if workers != "auto":
        return int(workers)
    if runs_on_cpu(settings) or _shared_memory() < SHARED_MEMORY or not sockets_fit():
        return 0
    devices = max(1, device_count(settings) // int(settings.get("num_nodes", 1)))
    return min(MOST_WORKERS, max(1, cores() // devices - 1))


def _shared_memory() -> float:
    """Return the free bytes in which loading processes pass batches on; a container may have few."""
    return shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else math.inf


def sockets_fit() -> bool:
    """Return whether the path of the temporary folder is short enough for the sockets of loading processes."""
    # torch binds a socket there, such as pymp-01234567/listener-01234567
    return sys.platform != "linux" or len(os.fsencode(tempfile.gettempdir())) <= SOCKET_FOLDER


def device_type(config: Mapping[str, Any]) -> str:
    """Return `cuda` if the training would use it, else `cpu`."""
    return (
        "cuda" if torch.cuda.is_available() and config["trainer"]["accelerator"] in ("auto", "gpu", "cuda") else "cpu"
    )


def device_memory(config: Mapping[str, Any]) -> int | None:
    """Return the bytes of a GPU's memory, used or not; None if the training does not use one."""
    return torch.cuda.get_device_properties(0).total_memory if device_type(config) == "cuda" else None


def autocast_dtype(config: Mapping[str, Any]) -> torch.dtype | None:
    """Return the autocast dtype of the training, or None without autocast."""
    precision = resolve_precision(config["trainer"])
    return None if "mixed" not in precision else torch.bfloat16 if "bf16" in precision else torch.float16
