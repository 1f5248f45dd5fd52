"""Devices and precision of a training, from its settings."""

import math
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from finetune.config.nested import select, with_value
from finetune.config.options import Config
from finetune.data.processes import cores
from finetune.recipe.decision import Decision

MOST_WORKERS = 8  # for each device
SHARED_MEMORY = 2**30  # bytes that loading processes should have to pass batches on
SOCKET_FOLDER = 75  # longest path of a folder that sockets are bound in, bytes; Linux takes 107 with the name


def decide_for_machine(config: Config) -> tuple[dict[str, Any], list[str]]:
    """Return the config with the settings that follow from the machine, and a line with the reason of each."""
    trainer = config["trainer"]
    made = {"trainer.precision": decide_precision, "data.num_workers": decide_workers}
    decided = {key: rule(trainer) for key, rule in made.items() if select(config, key) == "auto"}
    config = dict(config)
    for key, decision in decided.items():
        config = with_value(config, key, decision.value)
    return config, [f"{key}={decision.value}: {decision.reason}" for key, decision in decided.items()]


def resolve_precision(settings: Config) -> str:
    """Return the precision of a Trainer with these settings, decided if it is `auto`."""
    return str(decide_precision(settings).value if settings["precision"] == "auto" else settings["precision"])


def decide_precision(settings: Config) -> Decision:
    """Take bf16-mixed if the device multiplies such matrices, else 32-true."""
    if torch.cuda.is_available() and settings["accelerator"] in ("auto", "gpu", "cuda"):
        fast, device = torch.cuda.is_bf16_supported(including_emulation=False), "GPU"
    else:
        fast, device = _cpu_computes_bf16(), "CPU"
    if fast:
        return Decision("bf16-mixed", f"this {device} multiplies bfloat16 matrices faster")
    return Decision("32-true", f"this {device} does not multiply bfloat16 matrices faster")


def _cpu_computes_bf16() -> bool:
    # A training in bfloat16 takes 0.6 to 0.8 of the time of one in float32 with matrix tiles and on AMD's processors
    # with AVX-512 BF16, 1.3 of it on Intel's without tiles, and ten times as long without such instructions. Timing it
    # here could tell the ranks of a training different things. Torch has no public name for these checks.
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return torch.cpu._is_amx_tile_supported() or (torch.cpu._is_avx512_bf16_supported() and _is_amd())


def _is_amd() -> bool:
    path = Path("/proc/cpuinfo")
    return "AuthenticAMD" in (path.read_text() if path.is_file() else platform.processor())


def runs_on_cpu(settings: Config) -> bool:
    """Return whether a Trainer with these settings computes on the CPU."""
    accelerated = torch.cuda.is_available() or torch.backends.mps.is_available()
    return settings["accelerator"] == "cpu" or (settings["accelerator"] == "auto" and not accelerated)


def device_count(settings: Config) -> int:
    """Return the number of devices on all nodes; settings that Lightning would reject count as one device.

    >>> [device_count({"devices": devices, "num_nodes": 3}) for devices in (2, [1, 3], "0,1,2", "many")]
    [6, 6, 9, 3]
    >>> device_count({"devices": 2, "num_nodes": "abc"})
    2
    """
    devices, nodes = settings["devices"], _nodes(settings)
    if str(devices) in ("auto", "-1"):
        on_gpu = settings["accelerator"] in ("auto", "gpu", "cuda")
        return max(1, torch.cuda.device_count() if on_gpu else 0) * nodes
    listed = [part for part in str(devices).strip("[]").split(",") if part.strip()]
    if isinstance(devices, list) or "," in str(devices):
        return len(listed) * nodes
    return max(1, int(devices) if str(devices).isdigit() else 1) * nodes


def devices_of_node(settings: Config) -> int:
    """Return the number of devices of this machine."""
    return max(1, device_count(settings) // _nodes(settings))


def _nodes(settings: Config) -> int:
    nodes = settings.get("num_nodes", 1)
    return nodes if type(nodes) is int and nodes > 0 else 1


def resolve_workers(workers: int | str, settings: Config) -> int:
    """Return the number of loading processes.

    Args:
        workers: a number or `auto`.
        settings: of the Trainer.
    """
    return int(decide_workers(settings).value if workers == "auto" else workers)


def decide_workers(settings: Config) -> Decision:
    """Take no loading process on a CPU, and the cores of each GPU but one, at most 8."""
    if runs_on_cpu(settings):
        return Decision(0, "a training on the CPU computes on all of its cores")
    if _shared_memory() < SHARED_MEMORY or not sockets_fit():
        return Decision(0, "loading processes lack shared memory or a short path for temporary files")
    devices = devices_of_node(settings)
    workers = min(MOST_WORKERS, max(1, cores() // devices - 1))
    return Decision(workers, f"{cores()} cores for {devices} GPU{'s' if devices > 1 else ''}, {MOST_WORKERS} at most")


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


def first_gpu(settings: Config) -> int:
    """Return the index of the first GPU of a Trainer with these settings."""
    listed = str(settings["devices"]).strip("[]").split(",")
    is_list = isinstance(settings["devices"], list) or len(listed) > 1
    index = int(listed[0]) if is_list and listed[0].strip().isdigit() else 0
    return index if index < torch.cuda.device_count() else 0  # a GPU that is not there is reported by the Trainer


def on_training_device(config: Mapping[str, Any]) -> AbstractContextManager[Any]:
    """Return a context in which the device `cuda` is the first GPU of the training."""
    is_on_gpu = device_type(config) == "cuda"
    return torch.cuda.device(first_gpu(config["trainer"])) if is_on_gpu else nullcontext()


def device_memory(config: Mapping[str, Any]) -> int | None:
    """Return the bytes of the memory of the training's first GPU, used or not; None if it does not use one."""
    if device_type(config) != "cuda":
        return None
    return torch.cuda.get_device_properties(first_gpu(config["trainer"])).total_memory


def autocast_dtype(config: Mapping[str, Any]) -> torch.dtype | None:
    """Return the autocast dtype of the training, or None without autocast."""
    precision = resolve_precision(config["trainer"])
    return None if "mixed" not in precision else torch.bfloat16 if "bf16" in precision else torch.float16
