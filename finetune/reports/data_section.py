"""The part of a run's page about its data: how it was read, what is in each split, what an audit found."""

from collections import Counter
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from finetune.io.safe_files import LONGEST_TEXT, read_json
from finetune.plots import palette
from finetune.reports.evaluation import read_table
from finetune.reports.page import swatch, table

FINDINGS = "findings.csv"


def data_section(run: Path) -> Iterator[str]:
    """Yield the section, from `data.json` and the latest table of an audit in the run folder, as far as they exist."""
    if (run / "data.json").is_file():
        facts = read_json(run / "data.json", LONGEST_TEXT)
        lines = [*facts["notes"], *(f"warning: {text}" for text in facts["warnings"])]
        lines.append("settings: " + ", ".join(f"{k} {v}" for k, v in facts["settings"].items() if k != "classes"))
        yield f"<h2>Data</h2><ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"
        yield table(("", *map(escape, facts["splits"])), _rows(facts))
    if audits := sorted(run.glob(f"audit*/{FINDINGS}"), key=lambda path: path.stat().st_mtime):
        yield f"<h2>Audit of the data</h2>{_findings(audits[-1])}"


def _rows(facts: Any) -> Iterator[list[str]]:
    """Yield what each split holds: images, groups, and the share of the pixels that each class has."""
    splits = facts["splits"].values()
    yield [escape(facts["noun"]), *(f"{split['count']:,}" for split in splits)]
    yield ["groups", *(f"{split['groups']:,}" for split in splits)]
    totals = [split["total"] for split in splits]
    for k, (name, color) in enumerate(zip(facts["classes"], palette(len(facts["classes"])), strict=True)):
        shares = (f"{split['pixels'][k] / total:.2%}" for split, total in zip(splits, totals, strict=True))
        yield [swatch(color) + escape(name), *shares]
    if not facts["multilabel"]:
        yield ["ignored", *(f"{split['ignored'] / total:.2%}" for split, total in zip(splits, totals, strict=True))]


def _findings(path: Path) -> str:
    """Return how many rows each finding has, with the first of them."""
    found: dict[tuple[str, str], list[str]] = {}
    counts = Counter[tuple[str, str]]()
    for row in read_table(path):
        found.setdefault((row["severity"], row["kind"]), []).append(f"{row['file']} {row['detail']}".strip())
        counts[row["severity"], row["kind"]] += bool(row["file"])  # none: it is about all images
    numbers = {key: f"{count:,}" if count else "" for key, count in counts.items()}
    cells = [(*map(escape, key), numbers[key], escape(rows[0])) for key, rows in found.items()]
    return table(("", "finding", "images", "the first"), cells) if cells else "<p>nothing found</p>"
