"""Runs a function on several ranks, in processes that are forked from one that has imported everything."""

import os
import socket
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.multiprocessing import start_processes

# modules with functions that tests run; the process from which ranks are forked imports them once
PRELOADED = ("tests.engine.sharded_ranks", "tests.engine.resuming_ranks", "tests.callbacks.guarded_ranks")
ROOT = Path(__file__).parents[2]


def run_ranks(function: Callable[..., Any], size: int, *arguments: Any, timeout: float = 600) -> list[Any]:
    """Return what a function returns on each rank, as plain data and tensors.

    Args:
        function: of a module, so that other processes can import it.
        size: number of ranks.
        arguments: of the function.
        timeout: seconds until the ranks are killed.
    """
    get_context("forkserver").set_forkserver_preload(list(PRELOADED))
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        # the first call starts the process from which ranks are forked
        with patch.dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1"):
            ranks = start_processes(
                _run_rank,
                args=(size, port, function, arguments, Path(folder)),
                nprocs=size,
                join=False,
                start_method="forkserver",
            )
        end = time.monotonic() + timeout
        try:
            while not ranks.join(timeout=max(0.0, end - time.monotonic())):  # raises what a rank raises
                assert time.monotonic() < end, f"{function.__name__} has not ended after {timeout:g} seconds"
        finally:
            for process in ranks.processes:
                process.kill()
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(size)]


def _run_rank(rank: int, size: int, port: int, function: Callable[..., Any], arguments: Any, folder: Path) -> None:
    """Run the function as one rank, with the variables that torchrun sets."""
    torch.set_num_threads(1)
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    os.environ.update({name: str(number) for name, number in {**numbers, "GROUP_RANK": 0, "MASTER_PORT": port}.items()})
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "test"})
    torch.save(function(*arguments), folder / f"{rank}.pt")
