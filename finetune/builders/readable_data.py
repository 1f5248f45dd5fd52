"""The part of the data that can be read, and what keeps the rest from being read."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from finetune.builders.checks.settings import data_settings
from finetune.builders.data import build_source
from finetune.builders.discovery import without_unset, work_out_data
from finetune.builders.inspection import classes_hint
from finetune.builders.records import read_records
from finetune.config.errors import raise_mistakes
from finetune.config.options import Config
from finetune.data import DataError, Record, Source
from finetune.data.audit import Finding
from finetune.data.files import IMAGE_SUFFIXES, MASK_SUFFIXES, files_below
from finetune.data.sources.folder import WITHOUT_IMAGE, WITHOUT_MASK
from finetune.models.classes import class_names


@dataclass(frozen=True)
class ReadableData:
    """Records of a source, and what it could not pair.

    Attributes:
        settings: of `data`.
        source: of the records.
        records: as the source gives them.
        notes: what was worked out from the files.
        findings: files that are in no record.
    """

    settings: Config
    source: Source
    records: list[Record]
    notes: list[str]
    findings: list[Finding] = field(default_factory=list)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return class_names(self.source.class_names)

    @property
    def raw_values(self) -> bool:
        """Whether labels are the values in the files."""
        return self.settings.get("mask_values", ()) is None

    @property
    def root(self) -> Path | None:
        """Folder of the data."""
        return Path(self.settings["root"]) if self.settings.get("root") is not None else None


def readable_data(config: Config) -> ReadableData:
    """Return the images with masks of a config; what is not paired is a finding, if the source can do without it.

    Raises:
        ConfigError: settings that do not fit.
        DataError: the files leave a doubt, or nothing can be read.
    """
    config = without_unset(config)
    raise_mistakes(line for group in data_settings(config["data"]) for line in group.type_errors())
    try:
        return _read(config)
    except DataError as error:
        without = _read_paired({**config, "data": {**config["data"], "skip_unpaired": True}})
        if without is None:
            raise
        return _with_unpaired(without, str(error))


def _read(config: Config) -> ReadableData:
    resolved, notes = work_out_data({**config, "task": {}})
    source = build_source(resolved["data"])
    records = read_records(source, resolved["data"])
    if not source.class_names:
        raise DataError(classes_hint(records, source.ignore_index, channels=3, readings=None))
    return ReadableData(resolved["data"], source, records, notes)


def _read_paired(config: Config) -> ReadableData | None:
    """Return what is paired; None if that does not help, or the source has no such option."""
    try:
        with quiet("finetune.data.sources.folder"):  # it warns of what is a finding here
            return _read(config)
    except (ValueError, TypeError):
        return None


@contextmanager
def quiet(name: str) -> Iterator[None]:
    """Have a logger show errors only, while the block runs."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _with_unpaired(data: ReadableData, message: str) -> ReadableData:
    """Return the data with a finding for each line of the message that it gives if nothing is skipped."""
    images = _left_over((path for record in data.records for path in record.image.paths), IMAGE_SUFFIXES)
    masks = _left_over((p for r in data.records if r.target for p in r.target.paths), MASK_SUFFIXES)
    used = {path for record in data.records for path in record.paths}
    texts = message.split("\n- ")[1:] or [message]
    findings = []
    for text in texts:
        kind = "no_mask" if WITHOUT_MASK in text else "no_image" if WITHOUT_IMAGE in text else ""
        files = {"no_mask": images, "no_image": masks}.get(kind, [])
        left = [path for path in files if path not in used]
        findings.append(Finding(kind or "files", "error", text, {}, files=left))
    return ReadableData(data.settings, data.source, data.records, data.notes, findings)


def _left_over(used: Iterable[Path], suffixes: tuple[str, ...]) -> list[Path]:
    """Return the files in the folders of the used ones."""
    folders = sorted({path.parent for path in used})
    return [path for folder in folders for path in files_below(folder, suffixes, deep=False)]
