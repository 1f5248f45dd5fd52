"""Two ranks against one process, through every preset and every moment at which something thaws."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tasks.two_ranks import PRESETS, fit, task


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two ranks ended with."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    shared |= {"GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "test", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.tasks.two_ranks", str(folder)]
    started = [
        subprocess.Popen(
            command,
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=600)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], "\n".join(said)
    return [torch.load(folder / f"rank_{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("preset", PRESETS)
def test_both_ranks_end_with_the_same_weights(ranks: list[dict[str, Any]], preset: str) -> None:
    first, second = (rank[preset]["state"] for rank in ranks)
    assert len(first) > 50
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@pytest.mark.parametrize("preset", PRESETS)
def test_two_ranks_end_with_the_weights_of_one_process(ranks: list[dict[str, Any]], preset: str) -> None:
    made = task(preset)
    start = {name: tensor.clone() for name, tensor in made.model.state_dict().items()}
    alone = fit(made, 1)
    moved = {name for name, tensor in alone.items() if not torch.equal(tensor, start[name])}
    assert len(moved) > 20
    for name, tensor in ranks[0][preset]["state"].items():
        torch.testing.assert_close(tensor, alone[name], rtol=1e-5, atol=1e-7, msg=name)
        assert torch.equal(tensor, start[name]) == (name not in moved), name


@pytest.mark.parametrize("preset", PRESETS)
def test_only_the_gradients_of_what_trains_are_reduced(ranks: list[dict[str, Any]], preset: str) -> None:
    seen = ranks[0][preset]["reduced"]
    assert len(seen) == 4
    assert all(reduced == trains for reduced, trains in seen)
    changes = len({trains for _, trains in seen})
    assert changes == {"head_then_full": 2, "gradual": 3, "gradual_layer_decay": 3, "freeze_again": 2}.get(preset, 1)


def test_both_ranks_validate_with_the_mean_of_their_batch_norm_statistics(ranks: list[dict[str, Any]]) -> None:
    first, second = (rank["batch_norm"] for rank in ranks)
    assert len(first["own"]) > 10
    assert any(not torch.equal(value, second["own"][name]) for name, value in first["own"].items())
    for name, value in first["own"].items():
        torch.testing.assert_close(first["validated"][name], (value + second["own"][name]) / 2)
        assert torch.equal(first["validated"][name], second["validated"][name])


def test_without_wrapping_anew_the_ranks_would_drift_apart(ranks: list[dict[str, Any]]) -> None:
    first, second = (rank["diverged"] for rank in ranks)
    different = {name for name, tensor in first.items() if not torch.equal(tensor, second[name])}
    assert any(name.startswith("backbone") for name in different)


def test_ranks_that_drift_apart_are_noticed(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert "parameters differ between the ranks (backbone." in rank["noticed"]
