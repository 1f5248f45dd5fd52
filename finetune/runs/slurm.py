"""Gives a job of SLURM back to the queue when its time runs out, so that it goes on later.

SLURM warns what `srun` has started; with `#SBATCH --signal=B:USR1@90` it warns the script of the job instead, which has
to become the training by `exec finetune train ...`.
"""

import os
import re
import signal
import subprocess
import sys
import threading

from finetune.callbacks import TrainingInterrupted


def requeue(error: BaseException) -> list[str]:
    """Ask SLURM to start this job again, if it warned of its end by SIGUSR1; lines that say what came of it.

    The job goes on by itself where its command says `resume=auto`; without that it would begin anew, so it is left.

    Args:
        error: that ended the training.
    """
    job = os.environ.get("SLURM_JOB_ID", "")
    if not (isinstance(error, TrainingInterrupted) and error.signal == signal.SIGUSR1 and job):
        return []
    if "resume=auto" not in sys.argv:
        return [f"job {job} is not started again, as its command has no resume=auto and would begin anew"]
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        job = f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID', '0')}"
    if not re.fullmatch(r"\d+(_\d+)?", job):
        return [f"SLURM_JOB_ID='{job}' is no number of a job; it is not started again"]
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # which SLURM sends at once, while the last words are being said
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
    except OSError as reason:
        return [f"job {job} could not be given back to the queue: {reason}"]
    return [f"job {job} {'is in the queue again' if done.returncode == 0 else f'was refused: {done.stderr.strip()}'}"]
