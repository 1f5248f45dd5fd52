"""The split into training, validation and test images."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

import numpy as np
from torch import Tensor

from finetune.data.records import DataError, Record
from finetune.data.splitting.partition import class_labels, fill, hash_order, spread, stratify, units
from finetune.io.garbage import no_collection
from finetune.io.messages import shortlist


@no_collection()
def seeded_split(
    names: Sequence[str],
    val: float = 0.15,
    test: float = 0.15,
    seed: int = 0,
    groups: Mapping[str, str] | None = None,
    pixels: Mapping[str, Tensor] | None = None,
) -> dict[str, str]:
    """Split names by a hash: the result depends on the set of names and the seed, never on their order.

    Args:
        names: image names; repeats count once.
        val: fraction for validation, above 0; at least one image.
        test: fraction for test; 0 for none, else at least one image.
        seed: another seed gives another split.
        groups: name -> group, of the images that have one. Groups stay whole, so the fractions are met about.
        pixels: name -> pixels of each class (classes,), int64; classes are then balanced over the splits.

    Returns:
        Name -> "train", "val" or "test".

    Raises:
        DataError: there are too few images or groups for these splits.
    """
    if not (0 < val < 1 and 0 <= test < 1 and val + test < 1):
        raise ValueError(
            f"val={val} and test={test} leave no train split: expected fractions, val above 0, sum below 1."
        )
    if groups or pixels is not None:
        members = units(names, groups or {}, seed)[1]
        sizes = list(map(len, members))
        wanted = _wanted_sizes(sum(sizes), len(members), val, test)
        parts = np.repeat(_deal(members, list(wanted.values()), pixels), sizes)
        named: Sequence[str] = list(chain.from_iterable(members))
    else:  # in arrays: a million images take a third of the time
        named = names if len(set(names)) == len(names) else list(dict.fromkeys(names))
        wanted = _wanted_sizes(len(named), len(named), val, test)
        parts = np.empty(len(named), dtype=np.int64)
        parts[hash_order(named, seed)] = np.repeat(np.arange(len(wanted)), list(wanted.values()))
    splits = list(wanted)
    return dict(zip(named, [splits[part] for part in parts.tolist()], strict=True))


def _wanted_sizes(images: int, together: int, val: float, test: float) -> dict[str, int]:
    """Return the size of each split.

    Args:
        images: number of images.
        together: number of groups, or of images if there are none.
        val: fraction for validation.
        test: fraction for test; 0 for none.

    Raises:
        DataError: there are too few.
    """
    wanted = {"test": max(1, round(test * images)) if test else 0, "val": max(1, round(val * images))}
    wanted = {split: count for split, count in wanted.items() if count}
    wanted["train"] = images - sum(wanted.values())
    if together < len(wanted) or wanted["train"] < 1:
        needed = 3 if test else 2
        kept = f"{together} groups of " if together < images else ""
        raise DataError(
            f"{kept}{images} images cannot be split into train, val{' and test' if test else ''} with val={val} and "
            f"test={test}: at least {needed} are needed, one of them for train. Add images or lower the fractions"
            f"{', or set data.group=null to split each group' if kept else ''}."
        )
    return wanted


def seeded_folds(
    names: Sequence[str],
    count: int | None,
    seed: int = 0,
    groups: Mapping[str, str] | None = None,
    pixels: Mapping[str, Tensor] | None = None,
) -> dict[str, int]:
    """Deal names to folds of about equal size; the result never depends on their order.

    Args:
        names: image names; repeats count once.
        count: number of folds, 2 or more; None makes one of each group, in the order of their names.
        seed: another seed gives other folds, unless each is a group.
        groups: name -> group, of the images that have one; groups stay whole.
        pixels: name -> pixels of each class (classes,), int64; classes are then balanced over the folds.

    Returns:
        Name -> fold, from 0.

    Raises:
        DataError: there are fewer images or groups than folds.
    """
    named, members = units(names, groups or {}, seed)
    sizes, by_name = list(map(len, members)), count is None
    count = len(members) if count is None else count
    if not 2 <= count <= len(members):
        what = "groups" if len(members) < sum(sizes) else "images"
        raise DataError(f"{count} folds of {len(members)} {what}: expected 2 folds or more, with one of them in each.")
    if by_name:
        place = {unit: fold for fold, unit in enumerate(sorted(named))}
        parts = [place[unit] for unit in named]
    elif pixels is None:
        parts = spread(sizes, count)
    else:
        images = sum(sizes)
        parts = _deal(members, [images // count + (fold < images % count) for fold in range(count)], pixels)
    return {name: part for part, names in zip(parts, members, strict=True) for name in names}


def _deal(members: Sequence[Sequence[str]], wanted: Sequence[int], pixels: Mapping[str, Tensor] | None) -> list[int]:
    sizes = list(map(len, members))
    return fill(sizes, wanted) if pixels is None else stratify(sizes, class_labels(members, pixels), wanted)


def cut_validation(
    records: Sequence[Record], val: float, seed: int, pixels: Mapping[str, Tensor] | None = None, test: float = 0.0
) -> list[Record]:
    """Return the records with parts of their train split as val and test, chosen by a hash of the names.

    Groups stay whole.

    Args:
        records: with splits, of which none is one that is cut.
        val: fraction of the train split.
        seed: another seed gives another part.
        test: fraction of the train split; 0 for none.
        pixels: as for `seeded_split`, of the train split.

    Raises:
        DataError: there are too few images in train.
    """
    train = [record for record in records if record.split == "train"]
    chosen = seeded_split([record.name for record in train], val, test, seed, groups_by_name(train), pixels)
    return [record.with_split(chosen[record.name]) if record.split == "train" else record for record in records]


def cut_test(
    records: Sequence[Record], test: float, seed: int, pixels: Mapping[str, Tensor] | None = None
) -> list[Record]:
    """Return the records with a part of their train split as test; see `cut_validation`."""
    train = [record for record in records if record.split == "train"]
    chosen = seeded_split([record.name for record in train], test, 0, seed, groups_by_name(train), pixels)
    return [r.with_split("test") if r.split == "train" and chosen[r.name] == "val" else r for r in records]


def choose_fold(
    records: Sequence[Record], count: int | None, fold: int, seed: int, pixels: Mapping[str, Tensor] | None = None
) -> list[Record]:
    """Return the records with one of several folds as val and the others as train; the test split stays as it is.

    Over all folds, each image that is not in test is in val once. Those that were in val take part like the others.

    Args:
        records: with splits.
        count: number of folds; None makes one of each group.
        fold: which one is val, from 0.
        seed: another seed gives other folds.
        pixels: as for `seeded_folds`, of all images but those in test.

    Raises:
        DataError: there is no such fold, two images have one name, or there are too few images or groups.
    """
    others = [record for record in records if record.split != "test"]
    if repeated := [name for name, times in Counter(record.name for record in others).items() if times > 1]:
        raise DataError(
            f"data.folds joins train and val, but both have images called {shortlist(repeated, 3)}. Rename them."
        )
    folds = seeded_folds([record.name for record in others], count, seed, groups_by_name(others), pixels)
    if fold > (last := max(folds.values())):
        raise DataError(f"data.fold={fold}: expected 0 to {last}, as there are {last + 1} folds.")
    return [
        record if record.split == "test" else record.with_split("val" if folds[record.name] == fold else "train")
        for record in records
    ]


def groups_by_name(records: Iterable[Record]) -> dict[str, str]:
    """Return the group of each image that has one, by name."""
    return {record.name: record.group for record in records if record.group}
