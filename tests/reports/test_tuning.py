"""The text of a phase, against lines written by hand."""

import math
from dataclasses import replace
from pathlib import Path

from finetune.profiling.cost import Cost
from finetune.profiling.latency import Latency
from finetune.reports.tuning import phase_lines, timeline_rows, write_timeline
from finetune.tuning.lr_history import LRHistory
from finetune.tuning.plan_preview import Phase, Row

COST = Cost(4_000_000, 1_000_000, 2_000_000, 3_000_000, forward_flops=10**9, backward_flops=10**9)
FULL = replace(COST, backward_flops=3 * 10**9)
BACKBONE = Row("backbone", 750_000, False, 0.0, 0.0, 0.0, 0.01, "frozen")
HEAD = Row("head", 250_000, True, 0.001, 0.01, 0.0, 0.01, "train")
PHASE = Phase(0, 2, (BACKBONE, HEAD), frozenset({"head.weight"}))


def test_a_phase_is_described_by_its_costs_and_layer_groups() -> None:
    assert phase_lines(1, PHASE, COST, FULL) == [
        "phase 1: epochs 1 to 2, 0.25M of 1.00M parameters train",
        "  estimated per step: 2.0 GFLOP (50% of training everything), at least 10.0 MB of memory: weights 4.0 MB, "
        "gradients 1.0 MB, optimizer 2.0 MB, activations 3.0 MB",
        "  layer group  parameters  lr start  lr peak  lr end  weight decay  norms",
        "  head            250,000     0.001     0.01       0          0.01  train",
        "  frozen: backbone (750,000 parameters)",
    ]


def test_a_measured_cost_is_added_if_there_is_one() -> None:
    lines = phase_lines(1, PHASE, COST, FULL, Latency([0.2, 0.25, 0.4], 5_000_000))
    assert lines[2] == "  measured per step: 250 ms, 5.0 MB in addition to the memory held between steps"
    assert phase_lines(1, PHASE, COST, FULL, Latency([0.25, 0.25], None))[2] == "  measured per step: 250 ms"


def test_phases_after_the_first_are_assumed_if_the_plan_waits_for_plateaus() -> None:
    headings = [phase_lines(number, PHASE, COST, FULL, plateaus=True)[0] for number in (1, 2)]
    assert ["(assumed, depends on the score)" in heading for heading in headings] == [False, True]


def test_frozen_layer_groups_with_adapting_norms_are_named() -> None:
    phase = replace(PHASE, rows=(replace(BACKBONE, norms="adapt"), HEAD))
    assert phase_lines(1, phase, COST, FULL)[-1] == "  frozen, but batch norms update their statistics: backbone"


def test_each_stretch_of_training_has_a_row_in_the_order_of_time() -> None:
    nan, history = math.nan, LRHistory([])
    history.names = ["stem", "deep", "never", "head"]
    history.epochs = [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
    history.rates = [
        [nan, nan, nan, 0.1],
        [nan, nan, nan, 0.2],
        [nan, 0.05, nan, 0.1],
        [nan, 0.04, nan, 0.05],
        [0.01, nan, nan, 0.0],
        [0.01, 0.02, nan, 0.0],
    ]
    assert [tuple(row.values()) for row in timeline_rows(history)] == [
        ("head", 1, 3, 0.1, 0.2, 0.0),
        ("deep", 2, 2, 0.05, 0.05, 0.04),
        ("deep", 3, 3, 0.02, 0.02, 0.02),
        ("stem", 3, 3, 0.01, 0.01, 0.01),
    ]


def test_a_history_without_samples_writes_no_figure(tmp_path: Path) -> None:
    write_timeline(LRHistory([]), tmp_path / "plots" / "tuning.png")
    assert list(tmp_path.iterdir()) == []
