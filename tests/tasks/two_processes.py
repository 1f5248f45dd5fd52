"""Starts a module as two ranks on this machine, with the variables that torchrun sets."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch


def run_two_ranks(module: str, folder: Path, *words: str, timeout: float = 600) -> list[dict[str, Any]]:
    """What each of two ranks kept, as `rank_0.pt` and `rank_1.pt` in the folder.

    Args:
        module: run with `python -m MODULE FOLDER WORDS`.
        folder: that it writes to.
        words: further arguments.
        timeout: seconds.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    shared |= {"GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "test", "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", module, str(folder), *words],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=timeout)[0] for process in started]
    finally:
        for process in started:
            process.kill()  # the other one waits for ever if one has failed
    assert [process.returncode for process in started] == [0, 0], "\n".join(said)
    return [torch.load(folder / f"rank_{rank}.pt", weights_only=True) for rank in range(2)]
