"""Split the images of a training: as the data or a file says, or by the settings."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from finetune.builders.grouping import with_groups
from finetune.builders.inspection import file_cache, inspect_records, reading_processes
from finetune.builders.records import read_records
from finetune.builders.settings import DataSettings
from finetune.builders.tiles import tiled_records
from finetune.config.errors import ConfigError
from finetune.config.options import Config
from finetune.data import DataError, Record, Source, choose_fold, cut_test, cut_validation, seeded_split
from finetune.data.mistakes import Reading
from finetune.data.splitting.groups import shared_groups
from finetune.data.splitting.split_file import assign_splits, read_splits, restore_splits
from finetune.data.splitting.splits import groups_by_name
from finetune.data.statistics import read_all
from finetune.data.summary import class_pixels
from finetune.models.classes import class_names

ENOUGH = 10  # train images from which a test split is cut that the data lacks
Prepare = Callable[[Sequence[Record]], tuple[list[Record], int]]


@dataclass
class Split:
    """Images with a split, and how it was made.

    Attributes:
        records: in the order of the source.
        notes: what was decided, with the setting that changes it; one line each.
        warnings: what makes scores on this split doubtful; one line each.
        readings: of the records, or of their tiles, if the masks had to be read.
    """

    records: list[Record]
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    readings: list[Reading] | None = None


def split_records(source: Source, settings: Config, seed: int, prepare: Prepare | None = None) -> Split:
    """Split the records of a source: by `data.splits`, by a split of their own, or by the settings.

    A split of their own that lacks val or test gets one from train. With `data.folds`, val is fold `data.fold` of all
    images but those of test: the test split of the data, or a part that `data.test` cuts first. So over all folds each
    image is in test every time, or in val once.

    Args:
        source: of the records.
        settings: of `data`.
        seed: another seed gives another split.
        prepare: called if `data.stratify` needs the images read; returns records that can be, and their channels.

    Raises:
        ConfigError: settings of the split contradict each other.
        DataError: the images cannot be split so.
    """
    check_split_settings(settings)
    records = _with_own_split(read_records(source, settings))
    is_given, is_made = any(record.split for record in records), not keeps_split(records, settings)
    records, notes = with_groups(records, source, settings.get("group", DataSettings.group), is_made)
    split = Split(records, notes)
    if settings.get("splits"):
        split.records = split_by_file(records, Path(settings["splits"]))
    elif is_made:
        pixels = _read_pixels(split, source, settings, prepare) if settings.get("stratify") and prepare else None
        _make(split, settings, seed, pixels)
    if settings.get("stratify") and not is_made:
        split.warnings.append("data.stratify has no effect: the data or data.splits says the split.")
    if (is_given or settings.get("splits")) and not any(record.split == "test" for record in split.records):
        split.notes.append("the data has no test split: the final scores are those of val, which chose the weights")
    split.warnings += _shared(split.records)
    return split


def check_split_settings(settings: Config) -> None:
    """Raise a ConfigError if `data.folds` and `data.fold` do not fit each other, or there is a split file as well."""
    folds, fold = settings.get("folds"), settings.get("fold")
    if folds is None and fold is None:
        return
    if folds is None:
        raise ConfigError(f"data.fold={fold} needs the number of folds: data.folds=5, or data.folds=group.")
    if folds != "group" and folds < 2:
        raise ConfigError(f"data.folds={folds}: expected 2 or more, group for a fold of each group, or null.")
    last = "" if folds == "group" else f" to {folds - 1}"
    if fold is None:
        raise ConfigError(f"data.folds={folds} needs the fold that is val: data.fold=0{last}.")
    if fold < 0 or (folds != "group" and fold >= folds):
        raise ConfigError(f"data.fold={fold}: expected 0{last or ' or more'}, as data.folds={folds}.")
    if settings.get("splits"):
        raise ConfigError(f"data.splits says which images are val, and so does data.folds={folds}. Leave one out.")


def keeps_split(records: Sequence[Record], settings: Config) -> bool:
    """Return whether the images are split by `data.splits`, or as they are given, with nothing to be made."""
    given = {record.split for record in records}
    is_complete = "" not in given and ("val" in given or "train" not in given) and not lacks_test(records, settings)
    return bool(settings.get("splits")) or (settings.get("folds") is None and is_complete)


def split_by_file(records: Sequence[Record], path: Path) -> list[Record]:
    """Return the records with the splits of a file; where names repeat over splits, as a run has restored them."""
    if len({record.name for record in records}) == len(records):
        return assign_splits(records, read_splits(path))
    return restore_splits(records, path)


def _with_own_split(records: Sequence[Record]) -> list[Record]:
    """Return the records with those that have no split in train, if others have one."""
    if not any(record.split for record in records):
        return list(records)
    return [replace(record, split=record.split or "train") for record in records]


def _read_pixels(split: Split, source: Source, settings: Config, prepare: Prepare) -> Mapping[str, Tensor]:
    """Read all masks, and return the pixels of each class by the name of the image, for those that may be val."""
    readable, channels = prepare(split.records)
    tiled = tiled_records(readable, settings)
    tiles = [tile for parts in tiled for tile in parts]
    split.readings = read_all(tiles, channels, reading_processes(settings), file_cache(settings))
    inspect_records(source, tiles, settings, channels, readings=split.readings)
    count, readings = len(class_names(source.class_names)), iter(split.readings)
    pixels = [
        torch.stack([class_pixels(next(readings), count, source.ignore_index) for _ in parts]).sum(0) for parts in tiled
    ]
    return {record.name: total for record, total in zip(split.records, pixels, strict=True) if record.split != "test"}


def _make(split: Split, settings: Config, seed: int, pixels: Mapping[str, Tensor] | None) -> None:
    """Split by the settings, in place."""
    given = {record.split for record in split.records}
    fractions = {name: settings.get(name, getattr(DataSettings, name)) for name in ("val", "test")}
    names, groups = [record.name for record in split.records], groups_by_name(split.records)
    folds = settings.get("folds")
    if given == {""} and folds is None:
        chosen = seeded_split(names, **fractions, seed=seed, groups=groups, pixels=pixels)
        split.records = assign_splits(split.records, chosen)
    elif folds is None:
        _cut_missing(split, fractions, seed, pixels)
    else:
        if given == {""}:
            split.records = [record.with_split("train") for record in split.records]
        if "test" not in given and fractions["test"] and (given == {""} or lacks_test(split.records, fractions)):
            # without a given split the same images as without folds: those that the hash puts first
            first = seeded_split(names, fractions["test"], 0, seed, groups, pixels)
            split.records = [r.with_split("test") if first[r.name] == "val" else r for r in split.records]
        _choose_fold(split, folds, settings["fold"], seed, pixels)


def _cut_missing(split: Split, fractions: Mapping[str, float], seed: int, pixels: Mapping[str, Tensor] | None) -> None:
    """Cut the splits that the data lacks from train, in place."""
    given = {record.split for record in split.records}
    test = fractions["test"] if lacks_test(split.records, fractions) else 0
    if "val" in given:
        split.records = cut_test(split.records, test, seed, pixels)
    else:
        split.records = cut_validation(split.records, fractions["val"], seed, pixels, test)
    for name in [name for name in ("val", "test") if name not in given]:
        if count := sum(record.split == name for record in split.records):
            split.notes.append(
                f"the data has no {name} split: {count:,} of the train images are it, by data.{name} and seed"
            )


def lacks_test(records: Sequence[Record], settings: Config) -> bool:
    """Return whether a test split is to be cut from train: there is none, and enough images to spare."""
    count = sum(record.split == "train" for record in records)
    return bool(settings.get("test")) and count >= ENOUGH and not any(record.split == "test" for record in records)


def _choose_fold(split: Split, folds: int | str, fold: int, seed: int, pixels: Mapping[str, Tensor] | None) -> None:
    if folds == "group" and not any(record.group for record in split.records if record.split != "test"):
        raise DataError(
            "data.folds=group, but the images have no groups. Set data.group to a regular expression such as "
            "'(patient[0-9]+)_', or data.folds to a number."
        )
    if any(record.split == "val" for record in split.records):
        split.notes.append("the val images of the data take part in the folds like those of train (data.folds)")
    split.records = choose_fold(split.records, None if folds == "group" else int(folds), fold, seed, pixels)
    val = [record for record in split.records if record.split == "val"]
    what = f"the group {val[0].group or val[0].name}" if folds == "group" else f"fold {fold} of {folds}"
    has_test = any(record.split == "test" for record in split.records)
    split.notes.append(
        f"val is {what} (data.fold={fold}){', and test is in no fold' if has_test else ''}: {len(val):,} images"
    )


def _shared(records: Sequence[Record]) -> list[str]:
    """Return a warning if groups are in train and in another split, as a given split may have them."""
    shared = shared_groups(records)
    if not shared:
        return []
    group, counts = next(iter(shared.items()))
    example = ", ".join(f"{counts[split]:,} in {split}" for split in ("train", "val", "test") if split in counts)
    return [
        f"{len(shared):,} groups have images in train and also in val or test, as the split was given ({group}: "
        f"{example}): scores on images like those of the training are too high for new ones. data.group says what a "
        f"group is; null ends this warning."
    ]
