"""Output folders that cannot be written to: real mounts, in a mount namespace for each command."""

import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest

import finetune
from finetune.checkpoints.checkpoint_io import find_corruption, wait
from tests.runs.interrupted import OVERRIDES, same_weights
from tests.samples import COMMAND, listing, shell

LOCK = "mount --bind {0} {0} && mount -o remount,bind,ro {0}"  # without a mount, root may write anywhere


class ReadOnly(pl.Callback):
    """Makes a folder read-only before the second step of the second epoch."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.fit_loop.total_batch_idx == 3:
            wait(trainer)  # a folder cannot be remounted while a file in it is written
            subprocess.run(["sh", "-c", LOCK.format(self.folder)], check=True)


@cache
def refusal() -> str:
    """Return why a process cannot have its own mounts here; an empty text if it can."""
    try:
        tried = subprocess.run(["unshare", "-m", "mount", "--bind", "/", "/mnt"], capture_output=True, text=True)
    except OSError as error:
        return str(error)
    return tried.stderr.strip() if tried.returncode else ""


@pytest.fixture(autouse=True)
def _mounts() -> None:
    if reason := refusal():
        pytest.skip(f"needs a mount namespace: {reason}")


def command(*overrides: str, first: str = "true", cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a shell command that mounts something, then `finetune train OVERRIDES`, in a mount namespace."""
    script = f'{first} && exec "$@"'
    return shell(
        *("unshare", "-m", "sh", "-c", script, "sh", COMMAND, "train", *overrides),
        cwd=cwd,
        PYTHONPATH=str(Path(__file__).parents[2]),
    )


@pytest.mark.slow
def test_an_output_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "outputs").mkdir()
    done = command(*OVERRIDES, "output=outputs/a", first=LOCK.format("outputs"), cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr == "error: 'outputs/a' cannot be written to: Read-only file system. Name another output.\n"
    assert list(listing(tmp_path)) == ["outputs"]


@pytest.mark.slow
def test_checkpoints_before_a_folder_turned_read_only_stay_intact(tmp_path: Path) -> None:
    late = ("+callbacks.late._target_=tests.end_to_end.test_read_only.ReadOnly", "+callbacks.late.folder=run")
    (tmp_path / "run").mkdir()
    done = command(*OVERRIDES, "output=run", *late, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    run, last = tmp_path / "run", tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert "[Errno 30] Read-only file system: 'run/" in done.stderr  # the first file that is written
    assert "Traceback" not in done.stderr
    assert f"disk: the file system is read-only for '{run}" in done.stderr
    assert "saved: run/checkpoints/last.ckpt, 1 whole epochs" in done.stderr
    assert "resume: finetune train resume=run" in done.stderr
    assert find_corruption(last) is None
    before = listing(run)
    for overrides in (("resume=run",), (*OVERRIDES, "output=run", "resume=auto")):
        refused = command(*overrides, "+callbacks.late=null", first=LOCK.format("run"), cwd=tmp_path)
        assert refused.returncode == 2, refused.stderr
        assert f"'{run}' cannot be written to" in refused.stderr
        assert "Copy the run to a folder you may write to, and resume that." in refused.stderr
    assert listing(run) == before
    copy = tmp_path / "copy"
    assert shell("cp", "-r", "run", "copy", cwd=tmp_path).returncode == 0
    uninterrupted = finetune.train(*OVERRIDES, f"output={tmp_path / 'uninterrupted'}")
    assert same_weights(finetune.train(f"resume={copy}", "+callbacks.late=null").folder, uninterrupted.folder)
