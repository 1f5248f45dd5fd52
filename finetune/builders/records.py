"""List the records of a source as the settings leave them."""

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from finetune.config.errors import ConfigError
from finetune.config.options import Config
from finetune.data import DataError, Record, Source
from finetune.data.masks.clean import CleanedTarget
from finetune.data.splitting.exclude import without_excluded

logger = logging.getLogger(__name__)


def read_records(source: Source, settings: Config) -> list[Record]:
    """Return the records of a source without those in `data.exclude`, and with masks as `data.clean_masks` leaves them.

    Raises:
        ConfigError: `data.clean_masks` is below 0.
        DataError: the source or the list cannot be read, or the list names something else.
    """
    records, pixels = source.records(), settings.get("clean_masks") or 0
    _check_names([record.name for record in records])
    if pixels < 0:
        raise ConfigError(f"data.clean_masks={pixels}: expected a number of pixels, 0 to leave the masks as they are.")
    if settings.get("exclude"):
        root = settings.get("root")
        kept = without_excluded(records, Path(settings["exclude"]), Path(root) if root is not None else None)
        logger.info(f"{len(records) - len(kept):,} of {len(records):,} images are left out by data.exclude")
        records = kept
    return [with_clean_mask(record, pixels, source.ignore_index) for record in records] if pixels else records


def _check_names(names: Sequence[str]) -> None:
    """Raise DataError if a name has bytes that splits.csv could not hold."""
    try:
        "".join(names).encode()
    except UnicodeEncodeError:
        wrong = next(name for name in names if any("\ud800" <= letter <= "\udfff" for letter in name))
        raise DataError(f"the file name {os.fsencode(wrong)!r} is not UTF-8. Rename the file.") from None


def with_clean_mask(record: Record, pixels: int, ignore_index: int) -> Record:
    """Return a record whose mask, if it has one, loses its specks and holes of up to `pixels` pixels."""
    if record.target is None:
        return record
    return replace(record, target=CleanedTarget(record.target, pixels, ignore_index))
