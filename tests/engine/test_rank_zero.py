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
from tests.samples import clean_environment

# Asks for runs to resume and writes the answers. The late rank starts when the other one waits, or already trains.
FIND = """
import fcntl, json, sys, time
from pathlib import Path
from finetune.config.errors import ConfigError
from finetune.engine.rank_zero import is_first_process
from finetune.runs.resume import find_resume_point

folder, late, *requests = sys.argv[1:]
rank, other_is_ready, answers = 1 - is_first_process(), Path(folder) / "ready", []
while late == str(rank) and not other_is_ready.exists():
    time.sleep(0.05)
if (late, rank) == ("0", 1):
    other_is_ready.touch()
for request in requests:
    try:
        point = find_resume_point({"resume": request, "name": "mine", "output": f"{folder}/new"}, [])
        answers.append(point and str(point.checkpoint))
    except ConfigError as error:
        point = None
        answers.append(str(error))
if point and rank == 0:  # it trains in the folder before the other rank starts
    log = (point.folder / "train.log").open("a")
    fcntl.lockf(log, fcntl.LOCK_EX)
if (late, rank) == ("1", 0):
    other_is_ready.touch()
Path(f"{folder}/{rank}.json").write_text(json.dumps(answers))
while point and not Path(f"{folder}/1.json").exists():
    time.sleep(0.05)
"""
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
    """A run that another job trains."""
    folder = run_of(tmp_path / "busy")
    command = [sys.executable, "-c", HOLD, str(folder / "train.log")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as job:
        assert job.stdout is not None
        job.stdout.readline()
        yield folder
        job.communicate()


def find(launcher: str, folder: Path, *requests: str, late: int) -> list[list[str | None]]:
    """Return the answers of each of two ranks."""
    script = folder / "find.py"
    script.write_text(FIND)
    arguments = [str(script), str(folder), str(late), *requests]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    if launcher == "torchrun":
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}"]
        commands = [([*torchrun, *arguments], {})]
    else:
        alike = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "job", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2"}
        alike |= {"SLURM_NTASKS_PER_NODE": "2", "SLURM_NODEID": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        ranks = [{**alike, "SLURM_PROCID": rank, "SLURM_LOCALID": rank} for rank in ("0", "1")]
        commands = [([sys.executable, *arguments], rank) for rank in ranks]
    environment = clean_environment(PYTHONPATH=str(Path(__file__).parents[2]))
    outside = {name: value for name, value in environment.items() if not name.startswith(("SLURM_", "MASTER_"))}
    jobs = [subprocess.Popen(command, env={**outside, **more}, cwd=folder) for command, more in commands]
    assert [job.wait(180) for job in jobs] == [0] * len(jobs)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


def test_an_early_rank_does_not_resume_the_run_of_another_job(busy: Path) -> None:
    assert find("srun", busy.parent, "auto", late=0) == [[None], [None]]


def test_ranks_fail_together_and_resume_one_run_although_rank_zero_trains_already(busy: Path) -> None:
    other = run_of(busy.parent / "other")
    os.utime(other / "checkpoints" / "last.ckpt", (0, 0))  # long ago
    first, second = find("torchrun", busy.parent, "absent", "auto", late=1)
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
