"""The facts of all records together: one is found a thousand times as fast as those of a million records."""

from collections import Counter
from collections.abc import Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch

from finetune.data.caching.decoding_settings import settings_of_all
from finetune.data.caching.facts import Fact
from finetune.data.caching.known_facts import HASH, reading_fact, whole_numbers
from finetune.data.records import Record
from finetune.data.summary import Statistics
from finetune.io.garbage import no_collection

Summary = Mapping[str, Statistics]


class Collection:
    """Records, and the files of each, which are listed once.

    Args:
        records: of any source.
    """

    @no_collection()
    def __init__(self, records: Sequence[Record]) -> None:
        self.records = records
        self.paths = [record.paths for record in records]

    def __len__(self) -> int:
        return len(self.records)

    @no_collection()
    def files(self) -> list[Path]:
        """Return the files of all records; none if one has none, and is always read."""
        return [path for paths in self.paths for path in paths] if all(self.paths) else []

    def has_image_files(self) -> bool:
        """Return whether all images are files."""
        return all(map(attrgetter("image.paths"), self.records))

    def places(self) -> str:
        """Return how many of the files each record has."""
        counts = set(map(len, self.paths))
        return f"{min(counts)} each" if len(counts) == 1 else " ".join([str(len(paths)) for paths in self.paths])


hashes_fact: Fact[Collection, str] = Fact(
    "hashes 1",
    Collection.files,
    Collection.places,
    lambda found: found,
    lambda collection, plain: _hashes(plain, len(collection)),
    is_of_many=True,
)


def _hashes(plain: Any, count: int) -> str:
    if len(plain) != 2 * HASH * count or len(bytes.fromhex(plain)) != HASH * count:
        raise ValueError(f"a hash has {HASH} bytes")
    return str(plain)


def statistics_fact(channels: int, classes: int, settings: str) -> Fact[Collection, Summary]:
    """Return how the statistics of records without problems are kept.

    Args:
        channels: of the images.
        classes: number of classes.
        settings: everything else that statistics and problems depend on.
    """
    return Fact(
        f"statistics 1, {reading_fact(channels).name}",
        lambda collection: collection.files() if collection.has_image_files() else [],
        lambda collection: _settings(collection, f"{channels} {classes} {settings}"),
        _to_json,
        lambda collection, plain: _from_json(collection.records, plain, classes),
        is_of_many=True,
    )


@no_collection()
def _settings(collection: Collection, others: str) -> str | None:
    """Return everything but files that the statistics of records depend on; None if that cannot be told."""
    records = collection.records
    images = settings_of_all([record.image for record in records])
    targets = settings_of_all([record.target for record in records])
    if images is None or targets is None:
        return None
    splits = ",".join([record.split for record in records])
    return "\n".join((others, collection.places(), images, targets, splits))


def _to_json(summary: Summary) -> Any:
    if any(of_split.turned for of_split in summary.values()):  # their texts name files as they were given
        return None
    return {split: _plain(of_split) for split, of_split in summary.items()}


def _plain(of_split: Statistics) -> Any:
    counts = [of_split.images, of_split.ignored, of_split.resized, int(of_split.multilabel)]
    return [counts, of_split.pixels.tolist(), [[*size, images] for size, images in of_split.sizes.items()]]


def _from_json(records: Sequence[Record], plain: Any, classes: int) -> Summary:
    found = {split: _statistics(*values) for split, values in dict(plain).items()}
    images = Counter(record.split for record in records)
    if {split: of_split.images for split, of_split in found.items()} != images:
        raise ValueError("other splits")
    if not all(len(of_split.pixels) == classes for of_split in found.values()):
        raise ValueError("other classes")
    return found


def _statistics(counts: Any, pixels: Any, sizes: Any) -> Statistics:
    images, ignored, resized, multilabel = whole_numbers(counts)
    by_size = {(height, width): count for height, width, count in map(whole_numbers, sizes)}
    if sum(by_size.values()) != images:
        raise ValueError("other sizes")
    totals = torch.tensor(whole_numbers(pixels), dtype=torch.int64)
    return Statistics(images, totals, ignored, by_size, bool(multilabel), resized)
