"""Trainings as jobs of a real SLURM, which is started for these tests alone."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest

from tests.end_to_end.slurm import Slurm, missing, slurm, wait_for
from tests.runs.test_resume import rows, same_weights
from tests.samples import COMMAND, DRAWN, shell

WORDS = (*DRAWN, "trainer.max_epochs=4", "checkpoint.every_n_steps=1", "callbacks.preview=null")
TWO = ("trainer.devices=2", "trainer.strategy=ddp", "data.batch_size=2")
PACED = "+callbacks.paced._target_=tests.end_to_end.test_slurm.Paced"

pytestmark = [pytest.mark.slow, pytest.mark.alone]


class Paced(pl.Callback):
    """Leaves time to warn a training, and one that scores its best weights."""

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
    """Warn a job when it has said something, as SLURM does before its time is over; see it given back, and start it."""
    wait_for(lambda: when in cluster.log(job), f"{when} in the log of job {job}")
    cluster.ask("scancel", "--signal=USR1", job)
    cluster.start_again(job)
    assert cluster.end(job) == "COMPLETED", cluster.log(job)
    log = cluster.log(job)
    assert log.count(f"job {job} is requeued") == 1, log
    assert cluster.facts(job)["Restarts"] == "1"
    assert log.index("saved: ") < log.index("resuming ")
    assert "Traceback" not in log
    assert list(cluster.folder.rglob("hpc_ckpt*")) == []  # Lightning's own way to give a job back


def uninterrupted(folder: Path, *words: str) -> Path:
    """The run of the same training without SLURM."""
    done = shell(COMMAND, "train", *WORDS, *words, "output=whole", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "whole"


def test_a_warned_job_is_given_back_and_ends_with_the_same_weights(cluster: Slurm, tmp_path: Path) -> None:
    job = cluster.submit(f"srun {COMMAND} train {' '.join(WORDS)} {PACED} output=one resume=auto", "--ntasks=1")
    warn(cluster, job, when="epoch 2/4")
    run, whole = cluster.folder / "one", uninterrupted(tmp_path)
    assert same_weights(run, whole)
    assert rows(run) == rows(whole)


def test_a_job_without_srun_is_warned_too(cluster: Slurm) -> None:
    """Where the script has become the training, as SLURM warns what it knows."""
    job = cluster.submit(f"exec {COMMAND} train {' '.join(WORDS)} {PACED} output=plain resume=auto")
    wait_for(lambda: "epoch 2/4" in cluster.log(job), "the second epoch")
    cluster.ask("scancel", "--batch", "--signal=USR1", job)
    cluster.start_again(job)
    assert cluster.end(job) == "COMPLETED", cluster.log(job)
    assert f"job {job} is requeued" in cluster.log(job)


def test_two_tasks_find_one_run_and_only_one_of_them_gives_the_job_back(cluster: Slurm, tmp_path: Path) -> None:
    """One comes so late that the other has made the run folder, or opened it again, by a time of its own."""
    late = '[ "$SLURM_PROCID" = 0 ] || sleep 15; exec "$@"'
    words = " ".join((*WORDS, *TWO, PACED, "name=two", "resume=auto"))
    job = cluster.submit(f"srun sh -c '{late}' sh {COMMAND} train {words}", "--ntasks-per-node=2")
    warn(cluster, job, when="epoch 2/4")
    (run,) = (cluster.folder / "outputs" / "two").iterdir()
    whole = uninterrupted(tmp_path, *TWO)
    assert same_weights(run, whole)
    assert rows(run) == rows(whole)


def test_a_job_that_is_warned_while_it_scores_is_given_back_and_scores_again(cluster: Slurm) -> None:
    job = cluster.submit(f"srun {COMMAND} train {' '.join(WORDS)} {PACED} output=scores resume=auto", "--ntasks=1")
    warn(cluster, job, when="scoring")
    assert len(rows(cluster.folder / "scores")) == 4
    assert (cluster.folder / "scores" / "model" / "model.safetensors").is_file()
    assert cluster.log(job).count("epoch 4/4") == 1


def test_a_job_that_would_begin_anew_is_not_given_back(cluster: Slurm) -> None:
    job = cluster.submit(f"srun {COMMAND} train {' '.join(WORDS)} {PACED} output=anew", "--ntasks=1")
    wait_for(lambda: "scoring" in cluster.log(job), "the end of the training")
    cluster.ask("scancel", "--signal=USR1", job)
    assert cluster.end(job) == "FAILED"
    assert f"job {job} is not requeued: its command has no resume=auto" in cluster.log(job)
    assert cluster.facts(job)["Restarts"] == "0"
