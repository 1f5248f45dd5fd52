"""Catalog of backbones: a table shipped with the package, read without importing timm or torch."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from finetune.config.folder import options
from finetune.io.messages import suggest

TABLE = Path(__file__).with_name("backbones.csv")  # written by benchmarks/coverage.py

Range = int | float | Sequence[int | float] | None


@dataclass(frozen=True)
class Weights:
    """Pretrained weights in timm.

    Attributes:
        tag: part of the weights' name after the first dot.
        size: width of the training images, in pixels; their height too, except for Sapiens2.
        license: license, `unknown` if timm names none.
    """

    tag: str
    size: int
    license: str


@dataclass(frozen=True)
class Entry:
    """A backbone of the catalog.

    Attributes:
        name: name in timm.
        family: module of timm that defines it.
        parameters: number of parameters of the timm model, including its classifier.
        strides: strides of the feature maps in use, fine to coarse; empty if the model cannot be built.
        sizes: supported heights and widths of images.
        stages: number of layer groups with `tuning.layers=stages`.
        blocks: number of layer groups with `tuning.layers=blocks`.
        without: heads that do not support it.
        weights: pretrained weights, the default of timm first.
    """

    name: str
    family: str
    parameters: int
    strides: tuple[int, ...]
    sizes: str
    stages: int
    blocks: int
    without: tuple[str, ...]
    weights: tuple[Weights, ...]


@cache
def entries() -> tuple[Entry, ...]:
    """Return all backbones, sorted by name."""
    with TABLE.open(newline="") as file:
        return tuple(_entry(row) for row in csv.DictReader(file))


def select(
    pattern: str = "*",
    *,
    parameters: Range = None,
    strides: Sequence[int] | None = None,
    license: str | None = None,
    input_size: Range = None,
    pretrained: bool | None = None,
    with_head: str | None = None,
) -> list[Entry]:
    """Return the backbones that pass all filters, each with only those of its weights that pass them.

    Args:
        pattern: shell pattern of the name; the part after a dot is a pattern of the weights' tag.
        parameters: maximum or range of the number of parameters, in millions.
        strides: strides of all feature maps, fine to coarse.
        license: license of the weights, or a prefix of it.
        input_size: `size` of the weights, or a range.
        pretrained: whether there are pretrained weights.
        with_head: head that must support the backbone.

    Raises:
        ValueError: a filter has the wrong type, or there is no such head.
    """
    _check_types(strides, license, pretrained)
    if with_head is not None and with_head not in options("head"):
        raise ValueError(f"with_head={with_head}: no such head. {suggest(str(with_head), options('head'))}")
    (lowest, highest), sizes = parse_range("parameters", parameters, 0), parse_range("input_size", input_size)
    name, dot, tag = pattern.partition(".")
    needs_weights = license is not None or input_size is not None or bool(dot)
    selected = []
    for entry in entries():
        weights = tuple(
            w for w in entry.weights if _passes(w, license, sizes) and fnmatchcase(w.tag, tag if dot else "*")
        )
        passes = fnmatchcase(entry.name, name) and lowest <= entry.parameters / 1e6 <= highest
        passes &= strides is None or entry.strides == tuple(strides)
        passes &= pretrained is None or pretrained == bool(weights)
        passes &= with_head is None or with_head not in entry.without
        if passes and (weights or not needs_weights):
            selected.append(replace(entry, weights=weights))
    return selected


def _check_types(strides: Any, license: Any, pretrained: Any) -> None:
    if strides is not None and not (isinstance(strides, Sequence) and all(isinstance(s, int) for s in strides)):
        raise ValueError(f"strides={strides}: expected the strides of all feature maps, such as [4,8,16,32].")
    if license is not None and not isinstance(license, str):
        raise ValueError(f"license={license}: expected a license or a prefix of one, such as apache.")
    if not (pretrained is None or isinstance(pretrained, bool)):
        raise ValueError(f"pretrained={pretrained}: expected true or false.")


def parse_range(name: str, value: Range, lowest: float | None = None) -> tuple[float, float]:
    """Return the lower and upper bound of a range.

    Args:
        name: name of the filter, for messages.
        value: range, single number, or None for no bounds.
        lowest: lower bound for a single number; None uses the number as both bounds.

    >>> parse_range("parameters", 30, 0), parse_range("input_size", 224), parse_range("input_size", [224, 384])
    ((0, 30), (224, 224), (224, 384))
    """
    if value is None:
        return 0, float("inf")
    bounds = [value if lowest is None else lowest, value] if isinstance(value, int | float) else value
    numbers = [bound for bound in bounds if isinstance(bound, int | float) and not isinstance(bound, bool)]
    if isinstance(bounds, str) or len(numbers) != 2 or len(bounds) != 2 or numbers[0] > numbers[1]:
        raise ValueError(f"{name}={value}: expected a number, or a range such as [20,30].")
    return numbers[0], numbers[1]


def list_backbones(pattern: str = "*", **filters: Any) -> list[str]:
    """Return the names of the backbones that pass all filters.

    Args:
        pattern: shell pattern of the name; the part after a dot is a pattern of the weights' tag.
        filters: further filters, as in `select`.

    >>> list_backbones("tf_efficientnet_lite*", parameters=5)
    ['tf_efficientnet_lite0']
    """
    return [entry.name for entry in select(pattern, **filters)]


def _passes(weights: Weights, license: str | None, sizes: tuple[float, float]) -> bool:
    return (license is None or weights.license.startswith(license.lower())) and sizes[0] <= weights.size <= sizes[1]


def _entry(row: dict[str, str]) -> Entry:
    weights = tuple(Weights(*_weights_fields(text)) for text in row["weights"].split())
    return Entry(
        name=row["name"],
        family=row["family"],
        parameters=int(row["parameters"]),
        strides=tuple(map(int, row["strides"].split())),
        sizes=row["sizes"],
        stages=int(row["stages"] or 0),
        blocks=int(row["blocks"] or 0),
        without=tuple(row["without"].split()),
        weights=weights,
    )


def _weights_fields(text: str) -> tuple[str, int, str]:
    tag, size, license = text.split(":")
    return tag, int(size), license
