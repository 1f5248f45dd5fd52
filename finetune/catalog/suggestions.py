"""Which backbone to take: the few of a measured table that nothing cheaper reaches in accuracy."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TABLE = Path(__file__).with_name("speed.csv")  # benchmarks/backbone_speed.py fills it in
LONGEST = 8  # suggestions for one device


@dataclass(frozen=True)
class Speed:
    """What a backbone achieves and costs with its first weights in timm.

    Costs are of one image of 224 x 224 pixels, of the backbone under a U-Net, in float32; times are of one CPU thread.

    Attributes:
        name: name in timm.
        tag: part of the weights' name after the first dot.
        pixels: height and width of the images of `top1`.
        top1: accuracy on ImageNet-1k, percent, as timm publishes it.
        gmacs: multiplications of a forward pass, in billions.
        megabytes: what a forward pass keeps for the backward pass, in MB.
        inference_ms: milliseconds of a forward pass.
        step_ms: milliseconds of a training step.
    """

    name: str
    tag: str
    pixels: int
    top1: float
    gmacs: float
    megabytes: float
    inference_ms: float
    step_ms: float


@dataclass(frozen=True)
class Device:
    """What counts on a device.

    Attributes:
        costs: names of the costs in `Speed` that count.
        limit: largest value of the first one that is suggested.
    """

    costs: tuple[str, ...]
    limit: float


DEVICES = {
    "cpu": Device(("step_ms",), 300),
    "laptop": Device(("step_ms",), 600),
    "gpu": Device(("gmacs", "megabytes"), 20),  # no time was measured on one
}


@cache
def measured() -> tuple[Speed, ...]:
    """Return the table."""
    with TABLE.open(newline="") as file:
        return tuple(
            Speed(row.pop("name"), row.pop("tag"), int(row.pop("pixels")), **{key: float(row[key]) for key in row})
            for row in csv.DictReader(file)
        )


def choose(rows: Iterable[Speed], device: Device, longest: int = LONGEST) -> list[Speed]:
    """Return the rows to choose from on a device, the least accurate first.

    They are within the limit and on the Pareto front: no other row is as accurate at the same or lower costs. Of equals
    the first by name is returned, and of more than `longest` rows the most accurate. Accuracies count to a tenth of a
    percent.
    """
    affordable = (row for row in rows if costs_of(row, device)[0] <= device.limit)
    front: list[Speed] = []
    for row in sorted(affordable, key=lambda row: (-round(row.top1, 1), *costs_of(row, device), row.name)):
        if not any(_costs_no_more(other, row, device) for other in front):
            front.append(row)
    return front[:longest][::-1]


def costs_of(row: Speed, device: Device) -> tuple[float, ...]:
    """Return the costs of a row that count on a device."""
    return tuple(getattr(row, cost) for cost in device.costs)


def _costs_no_more(row: Speed, other: Speed, device: Device) -> bool:
    return all(a <= b for a, b in zip(costs_of(row, device), costs_of(other, device), strict=True))
