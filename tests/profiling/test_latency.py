"""Measured latencies against functions of known durations and allocations."""

import time

import numpy as np
import pytest
import torch

from finetune.profiling import latency
from finetune.profiling.latency import Latency, measure_latency

CPU = torch.device("cpu")


def test_quantiles_are_those_of_numpy() -> None:
    seconds = sorted(np.random.default_rng(0).random(37).tolist())
    measured = Latency(seconds, None)
    for share in (0.05, 0.5, 0.95):
        assert measured.quantile(share) == pytest.approx(np.quantile(seconds, share))


def test_two_calls_warm_up_and_the_others_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    durations = iter([0.5, 0.4, *[0.01] * 7])  # of the calls, the first two slow
    clock = [0.0]

    def call() -> None:
        clock[0] += next(durations)

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    measured = measure_latency(call, CPU, seconds=0.065)
    assert measured.seconds == pytest.approx([0.01] * 7)


def test_five_calls_are_made_however_long_they_take() -> None:
    assert len(measure_latency(lambda: None, CPU, seconds=0).seconds) == latency.FEWEST


def test_the_memory_of_a_call_is_found() -> None:
    growth = measure_latency(lambda: torch.ones(2**24).sum(), CPU, seconds=0).growth
    if growth is None:
        pytest.skip("the system does not report memory")
    assert 0.8 * 2**26 < growth < 1.5 * 2**26
