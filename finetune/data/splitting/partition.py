"""Deal images to parts of given sizes: groups stay whole, and classes may be balanced."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def units(names: Iterable[str], groups: Mapping[str, str], seed: int) -> tuple[list[str], list[Sequence[str]]]:
    """Return what stays together, groups or single images, and its images, in the order of a hash of it and the seed.

    A random generator would not do: libraries may change its stream between versions.

    Args:
        names: of images; repeats count once.
        groups: name -> group, of the images that have one.
        seed: another seed gives another order.

    >>> units(["a", "b", "c"], {"a": "x", "c": "x"}, seed=0)
    (['b', 'x'], [['b'], ['a', 'c']])
    """
    members: dict[str, list[str]] = {}
    for name in sorted(set(names)) if groups else ():
        members.setdefault(groups.get(name) or name, []).append(name)
    named = list(members if groups else dict.fromkeys(names))
    ordered = [named[index] for index in hash_order(named, seed).tolist()]
    return ordered, [members[unit] for unit in ordered] if groups else [(name,) for name in ordered]


def hash_order(names: Iterable[str], seed: int) -> npt.NDArray[np.int64]:
    """Return the positions of names in the order of a hash of each name and the seed, int64."""
    digests = b"".join([hashlib.sha256(f"{seed}/{name}".encode()).digest() for name in names])
    return np.frombuffer(digests, dtype="S32").argsort(kind="stable")


def fill(sizes: Sequence[int], wanted: Sequence[int]) -> list[int]:
    """Return a part for each unit: parts take the first units that bring them nearer to their size, the last the rest.

    Every part gets at least one unit, the smallest if each is far too large.

    Args:
        sizes: images in each unit.
        wanted: images in each part; at most as many parts as units.

    >>> fill([1, 1, 1, 1], [1, 1, 2]), fill([5, 2, 2, 9], [2, 2, 14])
    ([0, 1, 2, 2], [2, 0, 1, 2])
    """
    parts, remaining = [len(wanted) - 1] * len(sizes), list(range(len(sizes)))
    for part, room in enumerate(wanted[:-1]):
        needed = len(wanted) - 1 - part  # units for the parts after this one
        taken: list[int] = []
        for unit in remaining:
            if len(remaining) - len(taken) > needed and sizes[unit] < 2 * room:
                taken.append(unit)
                room -= sizes[unit]
        chosen = set(taken or [min(remaining, key=lambda unit: sizes[unit])])
        remaining = [unit for unit in remaining if unit not in chosen]
        for unit in chosen:
            parts[unit] = part
    return parts


def spread(sizes: Sequence[int], count: int) -> list[int]:
    """Return a part for each unit, with about as many images in each part: large units first, to the smallest part.

    Args:
        sizes: images in each unit.
        count: number of parts, at most that of the units.

    >>> spread([1, 1, 1, 1, 1], 2), spread([1, 4, 2, 1], 2)
    ([0, 1, 0, 1, 0], [1, 0, 1, 1])
    """
    parts, totals = [0] * len(sizes), [0] * count
    for unit in sorted(range(len(sizes)), key=lambda unit: -sizes[unit]):
        parts[unit] = min(range(count), key=lambda part: totals[part])
        totals[parts[unit]] += sizes[unit]
    return parts


def stratify(sizes: Sequence[int], labels: Tensor, wanted: Sequence[int]) -> list[int]:
    """Return a part for each unit, with each label spread over the parts in proportion to their size.

    Iterative stratification: the label with the fewest images left is dealt first, each unit to the part that lacks it
    most. A part that is full takes no more; every part gets at least one unit. All arithmetic is in whole numbers.

    Args:
        sizes: images in each unit.
        labels: images with each label in each unit (units, labels), int64.
        wanted: images in each part, as many as there are in all; at most as many parts as units.

    Source: Sechidis et al. 2011, https://doi.org/10.1007/978-3-642-23808-6_10
    """
    images, room, counts = sum(sizes), list(wanted), labels.tolist()
    lacking = [[total * size for total in labels.sum(0).tolist()] for size in wanted]  # in 1/images of an image
    parts, left = [-1] * len(sizes), labels.clone()

    def deal(unit: int, label: int | None) -> None:
        fitting = [part for part in range(len(room)) if sizes[unit] < 2 * room[part]]
        fitting = fitting or [max(range(len(room)), key=room.__getitem__)]
        part = max(fitting, key=lambda part: (lacking[part][label] if label is not None else 0, room[part]))
        parts[unit] = part
        room[part] -= sizes[unit]
        lacking[part] = [lack - images * count for lack, count in zip(lacking[part], counts[unit], strict=True)]
        left[unit] = 0

    while (totals := left.sum(0)).any():
        label = int(torch.where(totals > 0, totals, totals.max() + 1).argmin())
        having = left[:, label].nonzero().flatten().tolist()
        for unit in sorted(having, key=lambda unit: -counts[unit][label]):
            deal(unit, label)
    for unit in sorted((unit for unit, part in enumerate(parts) if part < 0), key=lambda unit: -sizes[unit]):
        deal(unit, None)
    return _without_empty(parts, sizes, len(wanted))


def _without_empty(parts: list[int], sizes: Sequence[int], count: int) -> list[int]:
    """Return the parts with the smallest unit of the part with most units for each that has none."""
    for part in range(count):
        if part not in parts:
            fullest = max(range(count), key=parts.count)
            parts[min((u for u, p in enumerate(parts) if p == fullest), key=lambda unit: sizes[unit])] = part
    return parts


def class_labels(members: Sequence[Sequence[str]], pixels: Mapping[str, Tensor]) -> Tensor:
    """Return the labels that `stratify` balances: images that have a class, and images that have much of it.

    Much is a larger share of the image than in half of the images that have the class.

    Args:
        members: names of the images in each unit.
        pixels: name -> pixels of each class (classes,), int64.

    Returns:
        Images with each label in each unit (units, 2 * classes), int64.
    """
    counts = torch.stack([pixels[name] for names in members for name in names]).double()
    present = counts > 0
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
    median = shares.masked_fill(~present, float("nan")).nanmedian(0).values
    labels = torch.cat([present, present & (shares > median)], 1).long()
    return torch.stack([part.sum(0) for part in torch.split(labels, [len(names) for names in members])])
