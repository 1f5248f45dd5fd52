"""Trainings as jobs of a real SLURM cluster, which is started for these tests."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest

from tests.end_to_end.slurm import Slurm, missing, slurm, wait_for
from tests.runs.interrupted import rows, same_weights
from tests.samples import COMMAND, SYNTHETIC, shell

OVERRIDES = (*SYNTHETIC, "trainer.max_epochs=4", "checkpoint.every_n_steps=1", "callbacks.preview=null")
TWO_RANKS = ("trainer.devices=2", "trainer.strategy=ddp", "data.batch_size=2")
SLOW = "+callbacks.slow._target_=tests.end_to_end.test_slurm.SlowDown"

pytestmark = [pytest.mark.slow, pytest.mark.alone]


class SlowDown(pl.Callback):
    """Leaves time to send a signal during the training and during the test."""

    def on_train_batch_start(self, *_: Any) -> None:
        time.sleep(0.3)

    def on_test_batch_start(self, *_: Any) -> None:
        print("scoring", flush=True)
        time.sleep(5)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    if lacking := missing():
        pytest.skip(f"needs SLURM and munge; not installed: {lacking}")
    with ExitStack() as stack:
        try:
            started = stack.enter_context(slurm(tmp_path_factory.mktemp("slurm")))
        except (OSError, RuntimeError) as error:
            pytest.skip(f"SLURM cannot be started here: {error}")
        yield started


def warn(cluster: Slurm, job: str, when: str) -> None:
    """Send SIGUSR1 to a job at a text in its log, as SLURM does before its time limit, and start the requeued job."""
    wait_for(lambda: when in cluster.log(job), f"{when} in the log of job {job}")
    cluster.ask("scancel", "--signal=USR1", job)
    cluster.start_again(job)
    assert cluster.end(job) == "COMPLETED", cluster.log(job)
    log = cluster.log(job)
    assert log.count(f"job {job} is requeued") == 1, log
    assert cluster.facts(job)["Restarts"] == "1"
    assert log.index("saved: ") < log.index("resuming ")
    assert "Traceback" not in log
    assert list(cluster.folder.rglob("hpc_ckpt*")) == []  # written by Lightning's own requeue


def uninterrupted(folder: Path, *overrides: str) -> Path:
    """Train with the same overrides without SLURM, and return the run folder."""
    done = shell(COMMAND, "train", *OVERRIDES, *overrides, "output=uninterrupted", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "uninterrupted"


def test_a_requeued_job_ends_with_the_weights_of_an_uninterrupted_one(cluster: Slurm, tmp_path: Path) -> None:
    job = cluster.submit(f"srun {COMMAND} train {' '.join(OVERRIDES)} {SLOW} output=one resume=auto", "--ntasks=1")
    warn(cluster, job, when="epoch 2/4")
    run, reference = cluster.folder / "one", uninterrupted(tmp_path)
    assert same_weights(run, reference)
    assert rows(run) == rows(reference)


def test_a_job_without_srun_requeues_itself(cluster: Slurm) -> None:
    """SLURM sends the signal to the batch script, which `exec` replaces by the training."""
    job = cluster.submit(f"exec {COMMAND} train {' '.join(OVERRIDES)} {SLOW} output=plain resume=auto")
    wait_for(lambda: "epoch 2/4" in cluster.log(job), "the second epoch")
    cluster.ask("scancel", "--batch", "--signal=USR1", job)
    cluster.start_again(job)
    assert cluster.end(job) == "COMPLETED", cluster.log(job)
    assert f"job {job} is requeued" in cluster.log(job)


def test_two_tasks_resume_one_run_and_only_one_requeues_the_job(cluster: Slurm, tmp_path: Path) -> None:
    """One task starts so late that the other has created, or reopened, the run folder."""
    late = '[ "$SLURM_PROCID" = 0 ] || sleep 15; exec "$@"'
    overrides = " ".join((*OVERRIDES, *TWO_RANKS, SLOW, "name=two", "resume=auto"))
    job = cluster.submit(f"srun sh -c '{late}' sh {COMMAND} train {overrides}", "--ntasks-per-node=2")
    warn(cluster, job, when="epoch 2/4")
    (run,) = (cluster.folder / "outputs" / "two").iterdir()
    reference = uninterrupted(tmp_path, *TWO_RANKS)
    assert same_weights(run, reference)
    assert rows(run) == rows(reference)


def test_a_job_that_is_signaled_during_the_test_is_requeued_and_tests_again(cluster: Slurm) -> None:
    job = cluster.submit(f"srun {COMMAND} train {' '.join(OVERRIDES)} {SLOW} output=scores resume=auto", "--ntasks=1")
    warn(cluster, job, when="scoring")
    assert len(rows(cluster.folder / "scores")) == 4
    assert (cluster.folder / "scores" / "model" / "model.safetensors").is_file()
    assert cluster.log(job).count("epoch 4/4") == 1


def test_a_job_without_resume_auto_is_not_requeued(cluster: Slurm) -> None:
    job = cluster.submit(f"srun {COMMAND} train {' '.join(OVERRIDES)} {SLOW} output=new", "--ntasks=1")
    wait_for(lambda: "scoring" in cluster.log(job), "the end of the training")
    cluster.ask("scancel", "--signal=USR1", job)
    assert cluster.end(job) == "FAILED"
    assert f"job {job} is not requeued: its training has no resume=auto" in cluster.log(job)
    assert cluster.facts(job)["Restarts"] == "0"
