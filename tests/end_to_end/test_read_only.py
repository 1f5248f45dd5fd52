"""Output folders that cannot be written to: real mounts, in a mount namespace of each command's own."""

import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest

import finetune
from finetune.checkpoints.checkpoint_io import find_corruption, wait
from tests.runs.test_resume import same_weights
from tests.samples import COMMAND, DRAWN, listing, shell

WORDS = (*DRAWN, "trainer.max_epochs=3", "checkpoint.every_n_steps=1", "callbacks.preview=null")
LOCK = "mount --bind {0} {0} && mount -o remount,bind,ro {0}"  # root writes to whatever is no mount of its own


class ReadOnly(pl.Callback):
    """Lets a folder be read only from the second step of the second epoch on."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.fit_loop.total_batch_idx == 3:
            wait(trainer)  # a mount is busy while a file in it is written
            subprocess.run(["sh", "-c", LOCK.format(self.folder)], check=True)


@cache
def refusal() -> str:
    """Why no process may have mounts of its own here; nothing where it may."""
    try:
        tried = subprocess.run(["unshare", "-m", "mount", "--bind", "/", "/mnt"], capture_output=True, text=True)
    except OSError as error:
        return str(error)
    return tried.stderr.strip() if tried.returncode else ""


@pytest.fixture(autouse=True)
def _mounts() -> None:
    if reason := refusal():
        pytest.skip(f"needs a mount namespace: {reason}")


def command(*words: str, first: str = "true", cwd: Path) -> subprocess.CompletedProcess[str]:
    """`finetune train WORDS` with mounts of its own, behind another command that makes some."""
    script = f'{first} && exec "$@"'
    return shell(
        *("unshare", "-m", "sh", "-c", script, "sh", COMMAND, "train", *words),
        cwd=cwd,
        PYTHONPATH=str(Path(__file__).parents[2]),
    )


def test_a_run_that_can_write_nothing_says_where_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "outputs").mkdir()
    done = command(*WORDS, "output=outputs/a", first=LOCK.format("outputs"), cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr == "error: 'outputs/a' cannot be written to: Read-only file system. Name another output.\n"
    assert list(listing(tmp_path)) == ["outputs"]


@pytest.mark.slow
def test_what_was_saved_before_stays_good_and_goes_on_later(tmp_path: Path) -> None:
    late = ("+callbacks.late._target_=tests.end_to_end.test_read_only.ReadOnly", "+callbacks.late.folder=run")
    (tmp_path / "run").mkdir()
    done = command(*WORDS, "output=run", *late, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    run, last = tmp_path / "run", tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert "[Errno 30] Read-only file system: 'run/" in done.stderr  # of whatever is written first
    assert "Traceback" not in done.stderr
    assert f"disk: the file system can only be read for '{run}" in done.stderr
    assert "saved: run/checkpoints/last.ckpt, 1 whole epochs" in done.stderr
    assert "resume: finetune train resume=run" in done.stderr
    assert find_corruption(last) is None
    before = listing(run)
    for words in (("resume=run",), (*WORDS, "output=run", "resume=auto")):
        still = command(*words, "+callbacks.late=null", first=LOCK.format("run"), cwd=tmp_path)
        assert still.returncode == 2, still.stderr
        assert f"'{run}' cannot be written to" in still.stderr
        assert "Copy the run to where you may write, and resume that." in still.stderr
    assert listing(run) == before
    copy = tmp_path / "copy"
    assert shell("cp", "-r", "run", "copy", cwd=tmp_path).returncode == 0
    whole = finetune.train(*WORDS, f"output={tmp_path / 'whole'}")
    assert same_weights(finetune.train(f"resume={copy}", "+callbacks.late=null").folder, whole.folder)
