"""Processes that torchrun or srun starts go on with the run that the first of them has chosen."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from finetune.checkpoints.checkpoint_io import write
from tests.samples import clean_environment

# what a rank finds; it comes so many seconds late, as on a busy node
FIND = """
import fcntl, json, os, sys, time
from pathlib import Path
from finetune.config.errors import ConfigError
from finetune.engine.rank_zero import is_first_process
from finetune.runs.resume import find_resume_point

wanted, folder, *late = sys.argv[1:]
time.sleep(float(late[not is_first_process()]))
try:
    found = find_resume_point({"resume": wanted, "name": "mine", "output": f"{folder}/new"}, [])
    told = None if found is None else str(found.checkpoint)
except ConfigError as error:
    found, told = None, str(error)
if found and is_first_process():  # it would train in the folder before the others come
    log = (found.folder / "train.log").open("a")
    fcntl.lockf(log, fcntl.LOCK_EX)
Path(f"{folder}/{1 - is_first_process()}.json").write_text(json.dumps(told))
while found and not Path(f"{folder}/1.json").exists():
    time.sleep(0.1)
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
    """What is left of a run that was not finished."""
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


def found(launcher: str, folder: Path, wanted: str = "auto", late: tuple[float, float] = (0, 0)) -> list[str | None]:
    """What each of two processes finds."""
    script = folder / "find.py"
    script.write_text(FIND)
    words = [str(script), wanted, str(folder), *map(str, late)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    if launcher == "torchrun":
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}"]
        commands = [([*torchrun, *words], {})]
    else:
        alike = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "job", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2"}
        alike |= {"SLURM_NTASKS_PER_NODE": "2", "SLURM_NODEID": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        ranks = [{**alike, "SLURM_PROCID": rank, "SLURM_LOCALID": rank} for rank in ("0", "1")]
        commands = [([sys.executable, *words], rank) for rank in ranks]
    environment = clean_environment(PYTHONPATH=str(Path(__file__).parents[2]))
    outside = {name: value for name, value in environment.items() if not name.startswith(("SLURM_", "MASTER_"))}
    jobs = [subprocess.Popen(command, env={**outside, **more}, cwd=folder) for command, more in commands]
    assert [job.wait(180) for job in jobs] == [0] * len(jobs)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


def test_a_rank_that_comes_early_does_not_go_on_with_a_run_of_another_job(busy: Path) -> None:
    assert found("srun", busy.parent, late=(3, 0)) == [None, None]


def test_ranks_go_on_with_the_same_run_though_the_first_trains_when_the_other_comes(busy: Path) -> None:
    other = run_of(busy.parent / "other")
    os.utime(other / "checkpoints" / "last.ckpt", (0, 0))  # long ago
    assert found("torchrun", busy.parent, late=(0, 3)) == [str(other / "checkpoints" / "last.ckpt")] * 2


def test_what_is_wrong_is_wrong_on_all_ranks(tmp_path: Path) -> None:
    one, other = found("torchrun", tmp_path, wanted="absent")
    assert one == "resume=absent: there is no such folder or file. Name a run folder, a checkpoint, or auto."
    assert other is not None
    assert one in other
