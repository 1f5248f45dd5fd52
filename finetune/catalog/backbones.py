"""Which backbones there are: a table that ships with the package, read without importing timm or torch."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("backbones.csv")  # written by benchmarks/coverage.py

Range = int | float | Sequence[int | float] | None


@dataclass(frozen=True)
class Weights:
    """Pretrained weights that timm knows of.

    Attributes:
        tag: what stands behind the name and a dot.
        size: side of the images that they were trained with, in pixels.
        license: `unknown` where timm names none.
    """

    tag: str
    size: int
    license: str


@dataclass(frozen=True)
class Entry:
    """A backbone.

    Attributes:
        name: timm's.
        family: timm's module.
        parameters: of the timm model, its classifier included.
        strides: of the maps that are read, fine to coarse; none where the model cannot be built.
        sizes: height and width that images may have.
        stages: layer groups of a tuning plan.
        blocks: layer groups with `tuning.layers=blocks`.
        without: heads that do not fit.
        weights: timm's default first.
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
    """All backbones, by name."""
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
    head: str | None = None,
) -> list[Entry]:
    """The backbones that have all that is asked for, each with those of its weights that have.

    Args:
        pattern: of the name, as in a shell; what stands behind a dot in it is a pattern of the weights' tag.
        parameters: in millions, at most so many, or a range.
        strides: of all maps, fine to coarse.
        license: of the weights, or how it begins.
        input_size: side of the images that the weights were trained with, or a range, in pixels.
        pretrained: whether there are weights.
        head: a head that is to fit.

    Raises:
        ValueError: a filter of another kind.
    """
    _check_kinds(strides, license, pretrained)
    (least, most), sizes = limits("parameters", parameters, 0), limits("input_size", input_size)
    name, dot, tag = pattern.partition(".")
    asks_for_weights = license is not None or input_size is not None or bool(dot)
    found = []
    for entry in entries():
        weights = tuple(w for w in entry.weights if _has(w, license, sizes) and fnmatchcase(w.tag, tag if dot else "*"))
        fits = fnmatchcase(entry.name, name) and least <= entry.parameters / 1e6 <= most
        fits &= strides is None or entry.strides == tuple(strides)
        fits &= pretrained is None or pretrained == bool(weights)
        fits &= head is None or head not in entry.without
        if fits and (weights or not asks_for_weights):
            found.append(replace(entry, weights=weights))
    return found


def _check_kinds(strides: Any, license: Any, pretrained: Any) -> None:
    if strides is not None and not (isinstance(strides, Sequence) and all(isinstance(s, int) for s in strides)):
        raise ValueError(f"strides={strides}: expected those of all maps, such as [4,8,16,32].")
    if license is not None and not isinstance(license, str):
        raise ValueError(f"license={license}: expected a name or how it begins, such as apache.")
    if not (pretrained is None or isinstance(pretrained, bool)):
        raise ValueError(f"pretrained={pretrained}: expected true or false.")


def limits(name: str, given: Range, least: float | None = None) -> tuple[float, float]:
    """Lower and upper end of a range; one number alone is the upper one, or both where there is no least.

    >>> limits("parameters", 30, 0), limits("input_size", 224), limits("input_size", [224, 384])
    ((0, 30), (224, 224), (224, 384))
    """
    if given is None:
        return 0, float("inf")
    ends = [given if least is None else least, given] if isinstance(given, int | float) else given
    numbers = [end for end in ends if isinstance(end, int | float) and not isinstance(end, bool)]
    if isinstance(ends, str) or len(numbers) != 2 or len(ends) != 2 or numbers[0] > numbers[1]:
        raise ValueError(f"{name}={given}: expected a number, or a range such as [20,30].")
    return numbers[0], numbers[1]


def list_backbones(pattern: str = "*", **filters: Any) -> list[str]:
    """Names of timm models that have all that is asked for.

    Args:
        pattern: of the name, as in a shell.
        filters: those of `select`.

    >>> list_backbones("tf_efficientnet_lite*", parameters=5)
    ['tf_efficientnet_lite0']
    """
    return [entry.name for entry in select(pattern, **filters)]


def _has(weights: Weights, license: str | None, sizes: tuple[float, float]) -> bool:
    return (license is None or weights.license.startswith(license.lower())) and sizes[0] <= weights.size <= sizes[1]


def _entry(row: dict[str, str]) -> Entry:
    weights = tuple(Weights(*_parts(word)) for word in row["weights"].split())
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


def _parts(word: str) -> tuple[str, int, str]:
    tag, size, license = word.split(":")
    return tag, int(size), license
