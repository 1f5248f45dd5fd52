"""Asks for runs to resume as one of two ranks, for `test_rank_zero.py`: `python -m tests.engine.resuming_ranks ...`."""

import fcntl
import json
import os
import sys
import time
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only

from finetune.config.errors import ConfigError
from finetune.engine.rank_zero import is_first_process
from finetune.runs.resume import find_resume_point


def find(folder: Path, late: int, *requests: str) -> list[str | None]:
    """Return and write the answers. The late rank starts when the other one waits, or already trains."""
    rank, other_is_ready, answers, point = 1 - is_first_process(), folder / "ready", [], None
    while rank == late and not other_is_ready.exists():
        time.sleep(0.05)
    if late == 0 and rank == 1:
        other_is_ready.touch()
    for request in requests:
        try:
            point = find_resume_point({"resume": request, "name": "mine", "output": f"{folder}/new"}, [])
            answers.append(str(point.checkpoint) if point else None)
        except ConfigError as error:
            answers.append(str(error))
    if point and rank == 0:  # it trains in the folder before the other rank starts
        log = (point.folder / "train.log").open("a")
        fcntl.lockf(log, fcntl.LOCK_EX)
    if late == 1 and rank == 0:
        other_is_ready.touch()
    (folder / f"{rank}.json").write_text(json.dumps(answers))
    while (point or rank == 0) and not (folder / "1.json").exists():  # rank 0 may host what rank 1 still asks
        time.sleep(0.05)
    return answers


def find_under_slurm(folder: Path, late: int, *requests: str) -> list[str | None]:
    """Do the same with the variables of srun."""
    rank = os.environ["RANK"]
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "TORCHELASTIC_RUN_ID"):
        del os.environ[name]
    os.environ.update({"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "job", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2"})
    os.environ.update({"SLURM_NTASKS_PER_NODE": "2", "SLURM_NODEID": "0", "SLURM_PROCID": rank, "SLURM_LOCALID": rank})
    rank_zero_only.rank = int(rank)  # Lightning sets it when it is imported in a process of srun
    return find(folder, late, *requests)


if __name__ == "__main__":
    find(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
