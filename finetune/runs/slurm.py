"""Requeue a SLURM job when its time runs out, so that it resumes later.

SLURM signals the processes that `srun` started. With `#SBATCH --signal=B:USR1@90` it signals the batch script instead,
which has to become the training by `exec finetune train ...`.
"""

import os
import re
import signal
import subprocess
import threading

from finetune.callbacks import TrainingInterrupted


def requeue(error: BaseException, may_repeat: bool) -> list[str]:
    """Ask SLURM to start this job again if SIGUSR1 ended the training, and return lines that report the outcome.

    Only a training with `resume=auto` is requeued: without it, the job would start a new training.

    Args:
        error: the exception that ended the training.
        may_repeat: whether the training has `resume=auto`.
    """
    job = os.environ.get("SLURM_JOB_ID", "")
    if not (isinstance(error, TrainingInterrupted) and error.signal == signal.SIGUSR1 and job):
        return []
    if not may_repeat:
        return [f"job {job} is not requeued: its training has no resume=auto, so it would start a new one"]
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        job = f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID', '0')}"
    if not re.fullmatch(r"\d+(_\d+)?", job):
        return [f"SLURM_JOB_ID='{job}' is not a job number; the job is not requeued"]
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # SLURM sends it at once, while the last lines are being written
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
    except OSError as reason:
        return [f"job {job} could not be requeued: {reason}"]
    return [f"job {job} is requeued" if done.returncode == 0 else f"job {job} was not requeued: {done.stderr.strip()}"]
