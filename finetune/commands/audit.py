"""The command `audit`: what is wrong with the data, before a minute is spent training."""

import logging
import time
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from finetune.builders.inspection import reading_processes
from finetune.builders.readable_data import ReadableData, quiet, readable_data
from finetune.builders.splits import split_records
from finetune.builders.tiles import tiled_records
from finetune.config.compose import load_config
from finetune.config.errors import usage
from finetune.config.options import Config
from finetune.data import DataError, Record
from finetune.data.audit import DataSet, Finding, audit_data, examine_all
from finetune.data.images.survey import find_channels, find_value_range, read_headers, with_value_range
from finetune.io.messages import html_table
from finetune.reports.audit import screen_lines, write_audit
from finetune.runs.console import configure_logging
from finetune.runs.folder import check_new, output_folder
from finetune.runs.progress import with_progress

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AuditResult:
    """What an audit found.

    Attributes:
        folder: `audit.html`, `findings.csv` and, if images should be left out, `exclude.txt`.
        findings: errors, then warnings, then notes.
        images: number of images, or of their tiles.
        notes: what was worked out from the files.
    """

    folder: Path
    findings: list[Finding]
    images: int
    notes: list[str]

    @property
    def errors(self) -> list[Finding]:
        """Findings with which a training would not start."""
        return [finding for finding in self.findings if finding.severity == "error"]

    @property
    def exit_code(self) -> int:
        """Of the command: 1 if there are errors."""
        return 1 if self.errors else 0

    def _repr_html_(self) -> str:
        rows = [(f.severity, f.kind, f"{len(f.details) + len(f.files):,}", f.text) for f in self.findings]
        summary = ("", "", f"{self.images:,}", f"images in all; {self.folder / 'audit.html'}")
        return html_table([("", "kind", "images", "what"), *rows, summary])


def audit(*overrides: str | DictConfig) -> AuditResult:
    """Look for mistakes in images and masks, and write a report with pictures.

    Args:
        overrides: of `finetune audit`, such as `data.root=photos`; or one composed config.

    Raises:
        ConfigError: the data cannot be read at all, or leaves a doubt about how.
    """
    configure_logging()
    with usage():
        config = load_config(overrides, "audit")
        named = Path("outputs", "audit", time.strftime("%Y-%m-%d_%H-%M-%S"))
        folder = output_folder(config["output"], named)
        check_new(folder)
        found = readable_data(config)
        records, unsplit = _split(found, config)
        records, channels, about_images = _readable_images(records)
        records = [tile for parts in tiled_records(records, found.settings) for tile in parts]
    for note in (*found.notes, *about_images):
        logger.info(note)
    examining = examine_all(records, found.source.ignore_index, channels, reading_processes(found.settings))
    examined = list(with_progress(examining, len(records), "reading"))
    data = DataSet(examined, found.classes, found.source.ignore_index, found.raw_values, channels)
    findings = [*found.findings, *unsplit, *audit_data(data)]
    files = write_audit(folder, data, findings, found.notes, found.root)
    for line in screen_lines(data, findings, files):
        logger.info(line)
    return AuditResult(folder, findings, len(records), found.notes)


def _split(found: ReadableData, config: Config) -> tuple[list[Record], list[Finding]]:
    """Return the records with a split, if they can be split."""
    try:
        with quiet("finetune.data.sources.folder"):  # it lists the files again, and warns of what is a finding
            return split_records(found.source, {**found.settings, "stratify": False}, config["seed"]).records, []
    except DataError as error:
        return found.records, [Finding("split", "error", str(error), {})]


def _readable_images(records: list[Record]) -> tuple[list[Record], int, list[str]]:
    """Return the records with the value range of their images, the channels to read them with, and lines about both."""
    headers = read_headers(records)
    try:
        channels, lines = find_channels(headers)
    except DataError as error:  # a training would not start; those that do not fit are errors of their own here
        channels, lines = 3, [str(error)]
    value_range, about_range = find_value_range(headers, channels)
    return with_value_range(records, value_range), channels, [*lines, *about_range]
