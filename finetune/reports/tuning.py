"""A tuning plan as text, and the timeline of a training as a picture."""

from pathlib import Path

import numpy as np

from finetune.io.messages import format_bytes, format_table
from finetune.plots import timeline_figure
from finetune.profiling.cost import Cost, MeasuredCost
from finetune.tuning.lr_history import LRHistory
from finetune.tuning.plan_preview import Phase, Row

HEADER = ("layer group", "parameters", "lr start", "peak", "end", "decay", "norms")


def write_timeline(record: LRHistory, path: Path) -> None:
    """Draw the learning rates of all layer groups, planned or recorded; nothing where there are none."""
    if record.epochs:
        path.parent.mkdir(parents=True, exist_ok=True)
        timeline_figure(record.names, record.epochs, np.array(record.rates), record.boundaries, path)


def phase_lines(
    number: int, phase: Phase, cost: Cost, full: Cost, measured: MeasuredCost | None = None, plateaus: bool = False
) -> list[str]:
    """A phase as a headline and a table of the layer groups that train in it; those that rest share a line.

    Args:
        number: of the phase, from 1.
        phase: what to show.
        cost: of one of its steps.
        full: of a step in which everything trains, to compare with.
        measured: what a step took, if it was tried.
        plateaus: whether the epochs are only assumed.
    """
    total = sum(row.parameters for row in phase.rows)
    epochs = (
        f"epoch {phase.first + 1}" if phase.stop == phase.first + 1 else f"epochs {phase.first + 1} to {phase.stop}"
    )
    lines = [
        f"phase {number}: {epochs}{' (assumed: they depend on the score)' if plateaus and number > 1 else ''}, "
        f"{phase.trained / 1e6:.2f}M of {total / 1e6:.2f}M parameters train",
        f"  estimated a step: {cost.flops / 1e9:.1f} GFLOP ({cost.flops / full.flops:.0%} of training everything), "
        f"at least {format_bytes(cost.memory)} memory: weights {format_bytes(cost.parameters)}, "
        f"gradients {format_bytes(cost.gradients)}, optimizer {format_bytes(cost.optimizer)}, "
        f"activations {format_bytes(cost.activations)}",
    ]
    if measured is not None:
        growth = (
            f", {format_bytes(measured.growth)} on top of what is held between steps"
            if measured.growth is not None
            else ""
        )
        lines.append(f"  measured a step: {measured.seconds * 1000:.0f} ms{growth}")
    trains, rests = ([row for row in phase.rows if row.trains is on] for on in (True, False))
    lines += [
        f"  {line}" for line in format_table([HEADER, *map(_cells, trains)], range(1, len(HEADER) - 1)).splitlines()
    ]
    if rests:
        count = sum(row.parameters for row in rests)
        adapting = [row.label for row in rests if row.norms == "adapt"]
        lines.append(f"  frozen: {', '.join(row.label for row in rests)} ({count:,} parameters)")
        lines += [f"  norms that adapt all the same: {', '.join(adapting)}"] if adapting else []
    return lines


def _cells(row: Row) -> tuple[str, ...]:
    rates = (f"{rate:.3g}" for rate in (row.start, row.peak, row.end))
    return (row.label, f"{row.parameters:,}", *rates, f"{row.weight_decay:g}", row.norms)
