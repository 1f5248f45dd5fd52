"""Measured predictions as a table, on the screen and in files."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from finetune.io.atomic_write import replace_text
from finetune.reports.evaluation import write_rows


@dataclass(frozen=True)
class Speed:
    """The measured predictions of one run in one form.

    Attributes:
        run: path.
        form: `torch`, `compiled`, or `onnx` or `openvino` with the precision of the file.
        batch_size: images that are predicted at a time.
        height: of the images, pixels.
        width: of the images, pixels.
        p5_ms: time of a batch that 5 % of the predictions do not exceed, milliseconds.
        median_ms: median time of a batch, milliseconds.
        p95_ms: time of a batch that 95 % of the predictions do not exceed, milliseconds.
        images_per_second: batch size by median.
        megabytes: memory that a prediction needs in addition to the model; None if the system does not report it.
    """

    run: str
    form: str
    batch_size: int
    height: int
    width: int
    p5_ms: float
    median_ms: float
    p95_ms: float
    images_per_second: float
    megabytes: float | None


def cells(rows: Sequence[Speed]) -> list[tuple[str, ...]]:
    """Return measurements as a table with a header."""
    header = ("run", "form", "batch", "pixels", "median ms", "5 % to 95 %", "images/s", "MB")
    return [
        header,
        *(
            (
                row.run,
                row.form,
                str(row.batch_size),
                f"{row.width} x {row.height}",
                f"{row.median_ms:.1f}",
                f"{row.p5_ms:.1f} to {row.p95_ms:.1f}",
                f"{row.images_per_second:.1f}",
                "-" if row.megabytes is None else f"{row.megabytes:.0f}",
            )
            for row in rows
        ),
    ]


def write_speeds(folder: Path, rows: Sequence[Speed], machine: Mapping[str, str | int]) -> None:
    """Write `benchmark.csv`, and `machine.json` with what the figures depend on."""
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "benchmark.csv", [asdict(row) for row in rows])
    replace_text(folder / "machine.json", json.dumps(machine, indent=2) + "\n")
