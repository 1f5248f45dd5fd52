"""Report of a tuning plan: its phases as text, and its timeline as a figure and as rows."""

import math
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from finetune.io.messages import format_bytes, format_table
from finetune.metrics.evaluator import Row as TableRow
from finetune.plots import timeline_figure
from finetune.profiling.cost import Cost
from finetune.profiling.latency import Latency
from finetune.tuning.lr_history import LRHistory
from finetune.tuning.plan_preview import Phase, Row

HEADER = ("layer group", "parameters", "lr start", "lr peak", "lr end", "weight decay", "norms")


def write_timeline(history: LRHistory, path: Path) -> None:
    """Draw the planned or recorded learning rates of all layer groups; without samples, write no file."""
    if history.epochs:
        path.parent.mkdir(parents=True, exist_ok=True)
        timeline_figure(history.names, history.epochs, np.array(history.rates), history.boundaries, path)


def timeline_rows(history: LRHistory) -> list[TableRow]:
    """Return a row for each stretch of epochs, counted from 1, in which a layer group trained, with its learning rates.

    The rows are in the order of time, from the head down.
    """
    rows = list[TableRow]()
    epochs = [int(epoch) + 1 for epoch in history.epochs]
    for name, rates in reversed(list(zip(history.names, zip(*history.rates, strict=True), strict=True))):
        for is_frozen, samples in groupby(zip(epochs, rates, strict=True), lambda sample: math.isnan(sample[1])):
            if not is_frozen:
                own, lr = zip(*samples, strict=True)
                row = {"layer_group": name, "from_epoch": own[0], "to_epoch": own[-1]}
                rows.append({**row, "lr_start": lr[0], "lr_highest": max(lr), "lr_end": lr[-1]})
    return sorted(rows, key=lambda row: float(row["from_epoch"]))


def phase_lines(
    number: int, phase: Phase, cost: Cost, full: Cost, measured: Latency | None = None, plateaus: bool = False
) -> list[str]:
    """Return a phase as text lines: a heading, a table of the layer groups that train, and a line of the frozen ones.

    Args:
        number: number of the phase, from 1.
        phase: phase to describe.
        cost: estimated cost of a step of this phase.
        full: estimated cost of a step in which everything trains, for comparison.
        measured: measured cost of a step, if any.
        plateaus: whether the phases depend on plateaus, so that their epochs are only assumed.
    """
    total = sum(row.parameters for row in phase.rows)
    epochs = (
        f"epoch {phase.first + 1}" if phase.stop == phase.first + 1 else f"epochs {phase.first + 1} to {phase.stop}"
    )
    assumed = " (assumed, depends on the score)" if plateaus and number > 1 else ""
    heading = f"phase {number}: {epochs}{assumed}, {phase.trained / 1e6:.2f}M of {total / 1e6:.2f}M parameters train"
    costs = [_estimated_cost(cost, full), *([] if measured is None else [_measured_cost(measured)])]
    return [heading, *(f"  {line}" for line in (*costs, *_layer_group_lines(phase.rows)))]


def _estimated_cost(cost: Cost, full: Cost) -> str:
    return (
        f"estimated per step: {cost.flops / 1e9:.1f} GFLOP ({cost.flops / full.flops:.0%} of training everything), "
        f"at least {format_bytes(cost.memory)} of memory: weights {format_bytes(cost.parameters)}, "
        f"gradients {format_bytes(cost.gradients)}, optimizer {format_bytes(cost.optimizer)}, "
        f"activations {format_bytes(cost.activations)}"
    )


def _measured_cost(measured: Latency) -> str:
    seconds = f"measured per step: {measured.median * 1000:.0f} ms"
    if measured.growth is None:
        return seconds
    return f"{seconds}, {format_bytes(measured.growth)} in addition to the memory held between steps"


def _layer_group_lines(rows: Sequence[Row]) -> list[str]:
    training, frozen = [row for row in rows if row.trains], [row for row in rows if not row.trains]
    lines = format_table([HEADER, *map(_cells, training)], range(1, len(HEADER) - 1)).splitlines()
    if frozen:
        count = sum(row.parameters for row in frozen)
        lines.append(f"frozen: {', '.join(row.label for row in frozen)} ({count:,} parameters)")
    if adapting := [row.label for row in frozen if row.norms == "adapt"]:
        lines.append(f"frozen, but batch norms update their statistics: {', '.join(adapting)}")
    return lines


def _cells(row: Row) -> tuple[str, ...]:
    rates = (f"{rate:.3g}" for rate in (row.start, row.peak, row.end))
    return (row.label, f"{row.parameters:,}", *rates, f"{row.weight_decay:g}", row.norms)
