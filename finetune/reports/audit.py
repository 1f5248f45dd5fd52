"""The report of an audit: lines, a table of findings, a list of images to leave out, a page."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from finetune.config.overrides import typed
from finetune.data.audit import SEVERITIES, DataSet, Finding
from finetune.data.splitting.exclude import below, entry_for
from finetune.io.atomic_write import replace_text
from finetune.io.messages import shortlist
from finetune.reports.audit_page import audit_page

HEADER = ("file", "kind", "severity", "detail")
MOST_CLASSES = 12  # in one line


def write_audit(
    folder: Path, data: DataSet, findings: Sequence[Finding], notes: Sequence[str], root: Path | None
) -> dict[str, Path]:
    """Write the files of an audit into a folder, which is created; return them by name.

    Args:
        folder: new or empty.
        data: what was examined.
        findings: errors, then warnings, then notes.
        notes: what was worked out from the files.
        root: folder of the data; files below it are named without it.
    """
    texts = {
        "audit.html": audit_page(data, findings, notes, str(root or "")),
        "findings.csv": _table(data, findings, root),
    }
    if excluded := _excluded(data, findings, root):
        texts["exclude.txt"] = "\n".join(excluded) + "\n"
    for name, text in texts.items():
        folder.mkdir(parents=True, exist_ok=True)
        replace_text(folder / name, text)
    return {name: folder / name for name in texts}


def _table(data: DataSet, findings: Sequence[Finding], root: Path | None) -> str:
    """Return a CSV table with a row for each image of each finding; the file is empty if it is about all of them."""
    content = io.StringIO()
    table = csv.writer(content, lineterminator="\n")
    table.writerow(HEADER)
    for finding in findings:
        named = [
            (entry_for(data.records[index], root), f"{data.part(index)} {detail}".strip())
            for index, detail in finding.details.items()
        ]
        named += [(below(path, root), finding.kind.replace("_", " ")) for path in finding.files]
        rows = named or [("", finding.text)]
        table.writerows((file, finding.kind, finding.severity, detail) for file, detail in rows)
    return content.getvalue()


def _excluded(data: DataSet, findings: Sequence[Finding], root: Path | None) -> list[str]:
    """Return the images that findings want to be left out, unless that would be all; of tiles, only those of all."""
    wanted = {index for finding in findings for index in finding.exclude}
    kept = {entry_for(record, root) for index, record in enumerate(data.records) if index not in wanted}
    entries = dict.fromkeys(entry_for(data.records[index], root) for index in sorted(wanted))
    return [entry for entry in entries if entry not in kept] if kept else []


def screen_lines(data: DataSet, findings: Sequence[Finding], files: Mapping[str, Path]) -> list[str]:
    """Return the lines that a terminal shows: counts, findings by severity, where to look, what to set."""
    counts = ", ".join(f"{count:,} {split or 'images without a split'}" for split, count in data.splits.items())
    lines = [
        f"{len(data.records):,} images ({counts}), {len(data.classes)} classes: {shortlist(data.classes, MOST_CLASSES)}"
    ]
    lines += class_lines(data)
    for severity in SEVERITIES:
        texts = [finding.text for finding in findings if finding.severity == severity]
        lines += ["", f"{severity}s" if len(texts) > 1 else severity, *(f"- {text}" for text in texts)] if texts else []
    if not findings:
        lines += ["", "nothing found"]
    lines += ["", f"report       {files['audit.html']}", f"findings     {files['findings.csv']}"]
    if "exclude.txt" in files:
        count = len(files["exclude.txt"].read_text(encoding="utf-8").splitlines())
        lines.append(f"leave out    {typed('data.exclude', files['exclude.txt'])}   ({count:,} images)")
    return lines


def class_lines(data: DataSet) -> list[str]:
    """Return a line with the share of the pixels that each class has, and void."""
    pixels = [sum(column) for column in zip(*(s.pixels.tolist() for s in data.statistics.values()), strict=True)]
    void = sum(statistics.ignored for statistics in data.statistics.values())
    if not sum(pixels):
        return []
    total = sum(statistics.total for statistics in data.statistics.values())
    left_out = 1 - sum(statistics.labeled for statistics in data.statistics.values()) / total
    order = sorted(range(len(pixels)), key=lambda k: -pixels[k])
    shares = shortlist((f"{data.classes[k]} {pixels[k] / total:.1%}" for k in order), MOST_CLASSES)
    return [f"pixels: {shares}{f'; void {left_out:.1%}' if void else ''}"]
