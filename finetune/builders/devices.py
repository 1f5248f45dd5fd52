"""Devices and precision of a training, from its settings."""

from collections.abc import Mapping
from typing import Any

import torch

from finetune.config.options import Config


def resolve_precision(settings: Config) -> str:
    """Return the precision; `auto` is bf16-mixed if the device has instructions for it, else 32-true."""
    if settings["precision"] != "auto":
        return str(settings["precision"])
    on_gpu = torch.cuda.is_available() and settings["accelerator"] in ("auto", "gpu", "cuda")
    fast = torch.cuda.is_bf16_supported(including_emulation=False) if on_gpu else _cpu_computes_bf16()
    return "bf16-mixed" if fast else "32-true"


def _cpu_computes_bf16() -> bool:
    # other processors emulate it at a tenth of the speed; torch has no public name for this check
    return bool(torch.backends.mkldnn.is_available()) and torch.cpu._is_avx512_bf16_supported()  # type: ignore[no-untyped-call]


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


def device_type(config: Mapping[str, Any]) -> str:
    """Return `cuda` if the training would use it, else `cpu`."""
    return (
        "cuda" if torch.cuda.is_available() and config["trainer"]["accelerator"] in ("auto", "gpu", "cuda") else "cpu"
    )


def autocast_dtype(config: Mapping[str, Any]) -> torch.dtype | None:
    """Return the autocast dtype of the training, or None without autocast."""
    precision = resolve_precision(config["trainer"])
    return None if "mixed" not in precision else torch.bfloat16 if "bf16" in precision else torch.float16
