"""A tuning plan as text, and the timeline of a training as a picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from finetune.plots import timeline_figure
from finetune.tuning.cost import Cost, Measured
from finetune.tuning.outline import Phase, Row
from finetune.tuning.record import RateRecord

HEADER = ("layer group", "parameters", "lr start", "peak", "end", "decay", "norms")


def write_timeline(record: RateRecord, path: Path) -> None:
    """Draw the learning rates of all layer groups, planned or recorded; nothing where there are none."""
    if record.epochs:
        path.parent.mkdir(parents=True, exist_ok=True)
        timeline_figure(record.names, record.epochs, np.array(record.rates), record.boundaries, path)


def phase_lines(
    number: int, phase: Phase, cost: Cost, full: Cost, measured: Measured | None = None, stalls: bool = False
) -> list[str]:
    """A phase as a headline and a table of the layer groups that train in it; those that rest share a line.

    Args:
        number: of the phase, from 1.
        phase: what to show.
        cost: of one of its steps.
        full: of a step in which everything trains, to compare with.
        measured: what a step took, if it was tried.
        stalls: whether the epochs are only assumed.
    """
    total = sum(row.parameters for row in phase.rows)
    epochs = (
        f"epoch {phase.first + 1}" if phase.stop == phase.first + 1 else f"epochs {phase.first + 1} to {phase.stop}"
    )
    lines = [
        f"phase {number}: {epochs}{' (assumed: they depend on the score)' if stalls and number > 1 else ''}, "
        f"{phase.trained / 1e6:.2f}M of {total / 1e6:.2f}M parameters train",
        f"  estimated a step: {cost.flops / 1e9:.1f} GFLOP ({cost.flops / full.flops:.0%} of training everything), "
        f"at least {_size(cost.memory)} memory: weights {_size(cost.parameters)}, gradients {_size(cost.gradients)}, "
        f"optimizer {_size(cost.optimizer)}, activations {_size(cost.activations)}",
    ]
    if measured is not None:
        growth = (
            f", {_size(measured.growth)} on top of what is held between steps" if measured.growth is not None else ""
        )
        lines.append(f"  measured a step: {measured.seconds * 1000:.0f} ms{growth}")
    trains, rests = ([row for row in phase.rows if row.trains is on] for on in (True, False))
    lines += [f"  {line}" for line in _table([HEADER, *map(_cells, trains)])]
    if rests:
        count = sum(row.parameters for row in rests)
        adapting = [row.label for row in rests if row.norms == "adapt"]
        lines.append(f"  frozen: {', '.join(row.label for row in rests)} ({count:,} parameters)")
        lines += [f"  norms that adapt all the same: {', '.join(adapting)}"] if adapting else []
    return lines


def _cells(row: Row) -> tuple[str, ...]:
    rates = (f"{rate:.3g}" for rate in (row.start, row.peak, row.end))
    return (row.label, f"{row.parameters:,}", *rates, f"{row.weight_decay:g}", row.norms)


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(_aligned(cell, width, i) for i, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in rows
    ]


def _aligned(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column in (0, len(HEADER) - 1) else cell.rjust(width)


def _size(count: int) -> str:
    """Bytes in words.

    >>> _size(1_234_567), _size(12_345_678_901)
    ('1 MB', '12.3 GB')
    """
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
