"""`finetune list backbones for=...`: the few backbones to choose from on a device, with the reason for each."""

from collections.abc import Sequence
from itertools import pairwise

from finetune.catalog.backbones import Entry
from finetune.catalog.suggestions import DEVICES, Device, Speed, choose, measured
from finetune.config.compose import packaged_options
from finetune.config.errors import ConfigError
from finetune.io.messages import format_table

UNITS = {"step_ms": "ms a training step", "gmacs": "GMACs"}
NOUNS = {"step_ms": "time", "gmacs": "computation", "megabytes": "memory"}


def list_suggestions(name: str, found: Sequence[Entry]) -> list[str]:
    """Print the backbones to choose from on a device, and return their names.

    Args:
        name: a name in `DEVICES`.
        found: backbones, each with the weights that may be suggested.

    Raises:
        ConfigError: another device.
    """
    if name not in DEVICES:
        raise ConfigError(f"for={name}: expected {', '.join(DEVICES)}.")
    device = DEVICES[name]
    described = {
        (entry.name, weights.tag): (entry.name, f"{entry.parameters / 1e6:.1f} M", weights.license)
        for entry in found
        if "unet" not in entry.without
        for weights in entry.weights
    }
    rows = [row for row in measured() if (row.name, row.tag) in described]
    if not rows:
        print(f"none of the {len(measured())} measured backbones passes the filters; leave one out")
    chosen = choose(rows, device)
    if chosen:
        lines = zip(chosen, reasons(chosen, device), strict=True)
        table = [(*described[row.name, row.tag], reason) for row, reason in lines]
        print(format_table([("backbone", "parameters", "license", "reason"), *table]))
    limit = f"{device.limit} {UNITS[device.costs[0]]}"
    thread = ", one CPU thread" if "step_ms" in device.costs else ""
    print(
        f"{len(chosen)} of {len(measured())} measured backbones, up to {limit}: an image of 224 x 224 pixels, a U-Net"
        f"{thread}; backbone=timm backbone.name=NAME takes one"
    )
    if options := without_download(rows, device):
        print(f"weights from a pip package, without a download: {', '.join(options)}")
    return [row.name for row in chosen]


def reasons(chosen: Sequence[Speed], device: Device) -> list[str]:
    """Return a line for each suggestion: what it achieves and costs, alone and compared with the one before it."""
    compared = [f"the least {NOUNS[device.costs[0]]} of these"]
    for lower, higher in pairwise(chosen):
        ratios = [f"{getattr(higher, cost) / getattr(lower, cost):.2f} x the {NOUNS[cost]}" for cost in device.costs]
        gain = round(higher.top1, 1) - round(lower.top1, 1)
        compared.append(f"{f'{gain:.1f} points more' if gain else 'as accurate'} in {' and '.join(ratios)}")
    return [
        f"{row.top1:.1f} % on ImageNet, {costs(row, device)}: {comparison}"
        for row, comparison in zip(chosen, compared, strict=True)
    ]


def costs(row: Speed, device: Device) -> str:
    """Return the costs of a backbone that matter on a device."""
    if "gmacs" in device.costs:
        return f"{row.gmacs:.1f} GMACs and {row.megabytes:.0f} MB to train, not measured on a GPU"
    return f"{row.step_ms:.0f} ms a training step, {row.inference_ms:.0f} ms a prediction"


def without_download(rows: Sequence[Speed], device: Device) -> list[str]:
    """Return the options of `backbone` whose weights are in a pip package, with their cost on a device."""
    (cost, *_), known = device.costs, {row.name: row for row in rows}
    return [
        f"backbone={option} ({getattr(known[settings['name']], cost):.3g} {UNITS[cost]})"
        for option, settings in packaged_options("backbone").items()
        if settings["name"] in known and settings["weights"].startswith("package:")
    ]
