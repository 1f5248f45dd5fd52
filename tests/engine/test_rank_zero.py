"""Ranks that torchrun or srun starts agree on the run that they resume, and only rank 0 logs."""

import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from lightning.pytorch.utilities import rank_zero_only

from finetune.checkpoints.checkpoint_io import write
from finetune.engine.rank_zero import rank_zero_logger
from tests.engine import resuming_ranks
from tests.engine.ranks import run_ranks
from tests.samples import clean_environment

HOLD = """
import fcntl, sys
log = open(sys.argv[1], "a")
fcntl.lockf(log, fcntl.LOCK_EX)
print(flush=True)
sys.stdin.read()
"""
STATE = {"made_by": {}, "model_config": {}, "SegmentationData": {}, "loops": {}, "callbacks": {}}


def run_of(folder: Path) -> Path:
    """Write what an unfinished run leaves."""
    write(STATE, folder / "checkpoints" / "last.ckpt")
    (folder / "config.yaml").write_text(yaml.safe_dump({"name": "mine", "output": str(folder)}))
    (folder / "train.log").touch()
    return folder


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[Path]:
    """Return a run that another job trains."""
    folder = run_of(tmp_path / "busy")
    command = [sys.executable, "-c", HOLD, str(folder / "train.log")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as job:
        assert job.stdout is not None
        job.stdout.readline()
        yield folder
        job.communicate()


def find_under_torchrun(folder: Path, late: int, *requests: str) -> list[list[str | None]]:
    """Return the answers of each of two ranks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}"]
    command += ["-m", "tests.engine.resuming_ranks", str(folder), str(late), *requests]
    environment = clean_environment(PYTHONPATH=str(Path(__file__).parents[2]))
    outside = {name: value for name, value in environment.items() if not name.startswith(("SLURM_", "MASTER_"))}
    subprocess.run(command, env=outside, cwd=folder, timeout=300, check=True)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


def test_an_early_rank_does_not_resume_the_run_of_another_job(busy: Path) -> None:
    assert run_ranks(resuming_ranks.find_under_slurm, 2, busy.parent, 0, "auto") == [[None], [None]]


@pytest.mark.slow
def test_ranks_fail_together_and_resume_one_run_although_rank_zero_trains_already(busy: Path) -> None:
    other = run_of(busy.parent / "other")
    os.utime(other / "checkpoints" / "last.ckpt", (0, 0))  # long ago
    first, second = find_under_torchrun(busy.parent, 1, "absent", "auto")
    assert first[0] == "resume=absent: there is no such folder or file. Name a run folder, a checkpoint, or auto."
    assert first[0] in str(second[0])
    assert first[1] == second[1] == str(other / "checkpoints" / "last.ckpt")


def test_only_rank_zero_logs(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level(logging.INFO)
    logger = rank_zero_logger("finetune.test")
    assert rank_zero_logger("finetune.test").filters == logger.filters != []  # it is not added twice
    for rank in (1, 0):
        monkeypatch.setattr(rank_zero_only, "rank", rank)
        logger.info(f"rank {rank}")
    assert caplog.messages == ["rank 0"]
