"""Resumed trainings: they end as if they had never been interrupted, and keep to the settings of their run."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from safetensors.torch import load_file

import finetune
from finetune.callbacks.checkpoint import NEXT
from finetune.commands.train import TrainResult
from finetune.config.errors import ConfigError
from finetune.runs.resume import newest_unfinished_run, resume_hints
from tests import forked
from tests.runs.interrupted import OVERRIDES, STOP, WITHOUT_STOP, copy, interrupt, rows, same_weights
from tests.samples import draw_folder, exit_code, on_folder

pytestmark = pytest.mark.usefixtures("without_figures")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return finetune.train(*OVERRIDES, f"output={tmp_path_factory.mktemp('runs') / 'uninterrupted'}")


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run that ended after step 3; tests that change it take a copy."""
    return interrupt(tmp_path_factory.mktemp("runs") / "interrupted")


@pytest.fixture
def run_to_resume(interrupted: Path, tmp_path: Path) -> Path:
    """Return a copy of the interrupted run."""
    return copy(interrupted, tmp_path / "run")


@pytest.fixture
def finished(uninterrupted: TrainResult, tmp_path: Path) -> Path:
    """Return a copy of the uninterrupted run."""
    return copy(uninterrupted.folder, tmp_path / "run")


def state_of(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(path, weights_only=True)
    return state


def test_a_resumed_run_ends_as_the_uninterrupted_one(tmp_path: Path, uninterrupted: TrainResult) -> None:
    folder = interrupt(tmp_path / "run")
    assert not (folder / "model").exists()
    drawn = (folder / "plots" / "augmentation.png").stat().st_mtime_ns
    run = finetune.train(f"resume={folder}", WITHOUT_STOP)
    assert run.folder == folder
    assert (folder / "plots" / "augmentation.png").stat().st_mtime_ns == drawn
    assert run.score == uninterrupted.score
    assert run.scores == uninterrupted.scores
    assert rows(run.folder) == rows(uninterrupted.folder)
    assert same_weights(run.folder, uninterrupted.folder)
    environment = json.loads((run.folder / "env.json").read_text())
    assert environment["finished"]
    assert len(environment["resumed"]) == 1
    log = (run.folder / "train.log").read_text()
    assert "something broke" in log
    assert f"resuming {run.folder} after step 3" in log


def test_a_failed_run_names_its_last_checkpoint_and_how_to_resume(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("train", *OVERRIDES, f"output={tmp_path / 'run'}", STOP) == 1
    message = capsys.readouterr().err
    assert "error: something broke" in message
    assert f"saved: {tmp_path / 'run' / 'checkpoints' / 'last.ckpt'}, 1 whole epochs, step 3" in message
    assert f"finetune train resume={tmp_path / 'run'}" in message


def test_one_command_with_resume_auto_starts_a_run_and_resumes_it_and_starts_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    overrides = (*OVERRIDES, "trainer.max_epochs=2", "resume=auto", "name=mine")
    with pytest.raises(RuntimeError, match="something broke"):
        finetune.train(*overrides, STOP)
    (first,) = (tmp_path / "outputs" / "mine").iterdir()
    assert finetune.train(*overrides, WITHOUT_STOP).folder == first
    assert finetune.train(*overrides, "output=outputs/mine/other").folder.name == "other"


def test_one_command_with_init_from_and_resume_auto_resumes_the_run_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: TrainResult
) -> None:
    monkeypatch.chdir(tmp_path)
    overrides = (*OVERRIDES, "resume=auto", "name=mine")
    with pytest.raises(RuntimeError, match="something broke"):
        finetune.train(*overrides, f"init_from={uninterrupted.folder}", STOP)
    with pytest.raises(ConfigError, match=r"which started from init_from=.*, not from .*elsewhere"):
        finetune.train(*overrides, "init_from=elsewhere", WITHOUT_STOP)
    run = finetune.train(*overrides, f"init_from={uninterrupted.folder}", WITHOUT_STOP)
    assert len(list((tmp_path / "outputs" / "mine").iterdir())) == 1
    assert "resuming" in (run.folder / "train.log").read_text()


def test_a_run_whose_time_is_used_up_is_not_resumed_without_more(tmp_path: Path) -> None:
    folder = finetune.train(*OVERRIDES, f"output={tmp_path / 'run'}", "+trainer.max_time=00:01:00:00").folder
    path = folder / "checkpoints" / "last.ckpt"
    state = state_of(path)
    state["callbacks"]["Timer"]["time_elapsed"]["train"] = 3600.0
    torch.save(state, path)
    with pytest.raises(ConfigError, match=r"max_time=00:01:00:00: the run has trained for 3,600 s already"):
        finetune.train(f"resume={folder}", "trainer.max_epochs=4")
    run = finetune.train(f"resume={folder}", "trainer.max_epochs=4", "+trainer.max_time=00:02:00:00")
    assert len(rows(run.folder)) == 4


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("backbone.name=test_resnet2.r160_in1k", "test_resnet2"),
        ("optimizer.lr=0.5", "optimizer.lr=0.5, where the run has"),
        ("seed=7", "seed=7, where the run has 0"),
        ("head=unet", "head.name=unet, where the run has fpn"),
        ("average=ema", "callbacks.average"),
        ("~trainer.gradient_clip_val", "cannot have ~trainer.gradient_clip_val"),
        ("~optimizer.options", "cannot have ~optimizer.options"),
        ("trainer.max_epochs=null", "needs an end"),
        ("data.batch_size=3", "images in a step"),
        ("trainer.devices=3", "3 devices cannot share"),
        ("trainer.max_epochs=0", "max_epochs"),
    ],
)
def test_settings_that_would_change_the_training_are_refused(override: str, message: str, interrupted: Path) -> None:
    before = sorted(interrupted.rglob("*"))
    with pytest.raises(ConfigError, match=message):
        finetune.train(f"resume={interrupted}", WITHOUT_STOP, override)
    assert sorted(interrupted.rglob("*")) == before


def test_a_run_resumes_only_in_its_own_folder(interrupted: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="resumed in its own folder"):
        finetune.train(f"resume={interrupted}", WITHOUT_STOP, f"output={tmp_path / 'other'}")


@pytest.mark.slow
def test_resume_auto_with_an_output_ignores_unfinished_runs_next_to_it(interrupted: Path) -> None:
    new = interrupted.with_name("new")
    with pytest.raises(RuntimeError, match="something broke"):
        finetune.train(*OVERRIDES, STOP, "resume=auto", f"output={new}")
    assert finetune.train(*OVERRIDES, WITHOUT_STOP, "resume=auto", f"output={new}").folder == new


def test_commands_that_start_at_step_0_refuse_resume(interrupted: Path) -> None:
    for command in (finetune.plan, finetune.find_lr, finetune.find_batch_size):
        with pytest.raises(ConfigError, match=r"[Ll]eave resume out"):
            command(f"resume={interrupted}")


def test_an_alias_of_the_same_precision_is_no_change(tmp_path: Path) -> None:
    folder = interrupt(tmp_path / "run", "trainer.precision=32")
    finetune.train(f"resume={folder}", WITHOUT_STOP)
    assert "instead of" not in (folder / "train.log").read_text()


def test_a_finished_run_needs_more_epochs_to_be_resumed(finished: Path, uninterrupted: TrainResult) -> None:
    with pytest.raises(ConfigError, match=r"is finished, with 3 epochs.*max_epochs=6"):
        finetune.train(f"resume={finished}")
    longer = finetune.train(f"resume={finished}", "trainer.max_epochs=4")
    assert [row["epoch"] for row in rows(longer.folder)] == ["1", "2", "3", "4"]
    assert longer.score >= uninterrupted.score


@pytest.mark.slow
def test_an_extended_run_does_not_freeze_layers_again(tmp_path: Path) -> None:
    run = finetune.train(*OVERRIDES, f"output={tmp_path / 'run'}", "tuning=gradual")
    finetune.train(f"resume={run.folder}", "trainer.max_epochs=7")
    changes = [line for line in (run.folder / "train.log").read_text().splitlines() if re.search(r"epoch \d+: ", line)]
    assert "unfroze" in changes[0]
    assert "as in the checkpoint" in changes[-1]
    assert not [line for line in changes if re.search(r"\bfroze\b", line)]


@pytest.mark.slow
def test_a_run_that_early_stopping_ended_resumes_with_more_patience_or_none(tmp_path: Path) -> None:
    stops = ("callbacks.early_stopping.patience=1", "callbacks.early_stopping.min_delta=1")
    run = finetune.train(*OVERRIDES, f"output={tmp_path / 'run'}", *stops)
    assert len(rows(run.folder)) == 2
    with pytest.raises(ConfigError, match=r"stopped early after 2 epochs.*callbacks.early_stopping.patience=2"):
        finetune.train(f"resume={run.folder}", "trainer.max_epochs=9")
    finetune.train(f"resume={run.folder}", "callbacks.early_stopping.patience=2")
    assert len(rows(run.folder)) == 3
    finetune.train(f"resume={run.folder}", "trainer.max_epochs=5", "~callbacks.early_stopping")
    assert len(rows(run.folder)) == 5


def test_the_checkpoint_before_a_corrupt_one_is_used(
    run_to_resume: Path, uninterrupted: TrainResult, capsys: pytest.CaptureFixture[str]
) -> None:
    last = run_to_resume / "checkpoints" / "last.ckpt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    with pytest.raises(ConfigError, match=r"is corrupt: the checksum.*last_2.ckpt"):
        finetune.train(f"resume={last}")
    run = finetune.train(f"resume={run_to_resume}", WITHOUT_STOP)
    assert "The one before it is used" in capsys.readouterr().out
    assert same_weights(run.folder, uninterrupted.folder)


def test_a_full_disk_ends_the_run_and_leaves_the_checkpoints_before_intact(
    tmp_path: Path, uninterrupted: TrainResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter(range(100))

    def fsync(handle: int) -> None:
        if next(calls) > 12:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    folder = tmp_path / "run"
    with monkeypatch.context() as full_disk:
        full_disk.setattr("os.fsync", fsync)
        with pytest.raises(OSError, match="No space left") as caught:
            finetune.train(*OVERRIDES, f"output={folder}")
    notes = "\n".join(caught.value.__notes__)
    assert f"saved: {folder / 'checkpoints' / 'last.ckpt'}" in notes
    assert f"resume: finetune train resume={folder}" in notes
    assert same_weights(finetune.train(f"resume={folder}").folder, uninterrupted.folder)


def test_a_run_resumes_on_data_that_moved_and_warns_of_images_that_changed(tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "photos")
    overrides = (*on_folder(root), "trainer.max_epochs=2", "checkpoint.every_n_steps=1", f"output={tmp_path / 'run'}")
    with pytest.raises(RuntimeError, match="something broke"):
        finetune.train(*overrides, STOP)
    root.rename(tmp_path / "moved")
    with pytest.raises(ConfigError, match="photos"):
        finetune.train(f"resume={tmp_path / 'run'}", WITHOUT_STOP)
    draw_folder(tmp_path / "other", seed=1)
    (tmp_path / "other" / "images" / "photo_03.png").replace(tmp_path / "moved" / "images" / "photo_03.png")
    finetune.train(f"resume={tmp_path / 'run'}", WITHOUT_STOP, f"data.root={tmp_path / 'moved'}")
    assert "1 of 12 images or their masks have changed (photo_03)" in (tmp_path / "run" / "train.log").read_text()


def test_init_from_takes_the_weights_of_a_run_with_other_classes(tmp_path: Path, uninterrupted: TrainResult) -> None:
    source = f"init_from={uninterrupted.folder}"
    root = draw_folder(tmp_path / "photos")
    facts = uninterrupted.folder / "model" / "config.json"
    text = facts.read_text()
    facts.write_text(text.replace('"weights_license": "unknown"', '"weights_license": "cc-by-nc-4.0"'))
    run = finetune.train(*on_folder(root), source, f"output={tmp_path / 'run'}", "optimizer.lr=0")
    facts.write_text(text)
    assert "license: cc-by-nc-4.0" in (run.folder / "model" / "README.md").read_text()
    log = (run.folder / "train.log").read_text()
    assert "initialized: head.0.weight, head.0.bias" in log
    before, after = (load_file(folder / "model" / "model.safetensors") for folder in (uninterrupted.folder, run.folder))
    kernels = [name for name, tensor in before.items() if tensor.ndim > 1 and not name.startswith("head.")]
    assert len(kernels) > 20
    assert all(torch.equal(before[name], after[name]) for name in kernels)
    with pytest.raises(ConfigError, match="do not fit"):
        finetune.train(*on_folder(root), source, "backbone.name=resnet18")


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), pytest.param(signal.SIGUSR1, 143, marks=pytest.mark.slow), (signal.SIGINT, 130)],
)
def test_a_signal_during_the_training_finishes_the_step_and_saves(number: int, code: int, tmp_path: Path) -> None:
    """The command in a process of its own, which gets the signal as from a cluster."""
    overrides = (*OVERRIDES, STOP, f"+callbacks.stop.number={int(number)}", f"output={tmp_path / 'run'}")
    exit_code, message = forked.start(*overrides, cwd=tmp_path, logs=tmp_path).wait()
    assert exit_code == code, message
    assert "finishing the step, then saving" in message
    assert "2 whole epochs, step 4" in message
    assert "Traceback" not in message


def test_a_run_without_a_checkpoint_starts_again_in_its_folder(tmp_path: Path, uninterrupted: TrainResult) -> None:
    folder = interrupt(tmp_path / "run", batch=0)
    with pytest.raises(ConfigError, match="before its first checkpoint"):
        finetune.train(f"resume={folder}", WITHOUT_STOP)
    run = finetune.train(*OVERRIDES, f"output={folder}", "resume=auto")
    assert same_weights(run.folder, uninterrupted.folder)


def test_two_processes_do_not_train_in_one_folder(interrupted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = f"""
import fcntl, sys
file = open({str(interrupted / "train.log")!r}, "a")
fcntl.lockf(file, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(ConfigError, match="another process trains"):
            finetune.train(f"resume={interrupted}", WITHOUT_STOP)
        assert newest_unfinished_run([interrupted], "run") is None
        monkeypatch.setattr("lightning.pytorch.utilities.rank_zero_only.rank", 1)
        assert newest_unfinished_run([interrupted], "run") == interrupted  # the lock is that of its own rank 0
        other.communicate()


def test_without_the_checkpoint_callback_a_signal_still_saves_a_run_to_resume(
    tmp_path: Path, uninterrupted: TrainResult, capsys: pytest.CaptureFixture[str]
) -> None:
    without = (*OVERRIDES, "callbacks.checkpoint=null", f"output={tmp_path / 'run'}")
    assert exit_code("train", *without, STOP, f"+callbacks.stop.number={int(signal.SIGTERM)}") == 143
    assert f"saved: {tmp_path / 'run' / 'checkpoints' / 'last.ckpt'}, 2 whole epochs, step 4" in capsys.readouterr().err
    run = finetune.train(f"resume={tmp_path / 'run'}", WITHOUT_STOP)
    # its last weights count as its best
    assert same_weights(run.folder, uninterrupted.folder) == (uninterrupted.score == run.score)
    assert rows(run.folder) == rows(uninterrupted.folder)


def test_without_the_checkpoint_callback_the_last_weights_count_as_the_best(tmp_path: Path) -> None:
    run = finetune.train(*OVERRIDES, "callbacks.checkpoint=null", f"output={tmp_path / 'run'}")
    assert run.best == tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert finetune.load(run.best).model.class_names
    assert state_of(run.best)["SegmentationData"]["epoch"] == 3
    finetune.train(f"resume={run.folder}", "trainer.max_epochs=4")
    assert [row["step"] for row in rows(run.folder)] == ["2", "4", "6", "8"]


def test_if_every_score_is_nan_the_last_checkpoint_is_the_best_and_is_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[str] = []
    save = pl.Trainer.save_checkpoint

    def save_and_note(trainer: pl.Trainer, path: Path, **options: Any) -> None:
        saved.append(path.name)
        save(trainer, path, **options)

    monkeypatch.setattr(pl.Trainer, "save_checkpoint", save_and_note)
    # the first batch of val is void, and no other one is validated
    photos = tmp_path / "photos"
    draw_folder(photos, [*(f"train/{name}" for name in "abcd"), "val/z"], (0, 1, 2, 3))
    draw_folder(photos, [f"val/{name}" for name in "abcd"], (255,))
    overrides = (*on_folder(photos), "data.classes=[ground,wall,sky,moon]", "+trainer.limit_val_batches=1")
    always_nan = ("checkpoint.monitor=val/iou/moon", "~callbacks.early_stopping", "trainer.max_epochs=3")
    run = finetune.train(*overrides, *always_nan, f"output={tmp_path / 'run'}")
    assert run.best == tmp_path / "run" / "checkpoints" / "last.ckpt"
    states = [state_of(run.best.with_name(name)) for name in ("last.ckpt", "last_2.ckpt")]
    assert [state["SegmentationData"]["epoch"] for state in states] == [3, 2]
    assert [str(state["global_step"]) for state in states] == [row["step"] for row in rows(run.folder)[:0:-1]]
    assert saved == [NEXT] * 3


@pytest.mark.parametrize("content", [{"global_step": 3}, [1], {"SegmentationData": 7, "made_by": {}, "loops": {}}])
def test_hints_never_fail_on_checkpoints_of_other_programs(content: Any, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    torch.save(content, tmp_path / "checkpoints" / "last.ckpt")
    (line,) = resume_hints(tmp_path)
    assert "none of the 1 checkpoints" in line


@pytest.mark.slow
def test_a_best_checkpoint_from_inside_an_accumulation_is_refused_with_alternatives(tmp_path: Path) -> None:
    inside = ("data.batch_size=2", "trainer.accumulate_grad_batches=2", "+trainer.val_check_interval=3")
    run = finetune.train(*OVERRIDES, *inside, f"output={tmp_path / 'run'}")
    assert not state_of(run.best)["exact"]
    assert state_of(run.best.with_name("last.ckpt"))["exact"]
    more = "trainer.max_epochs=4"
    with pytest.raises(ConfigError, match=rf"accumulated.*resume={run.folder}; .*init_from={run.best}"):
        finetune.train(f"resume={run.best}", more)
    finetune.train(f"resume={run.folder}", more)


@pytest.mark.slow
def test_a_run_of_a_number_of_steps_needs_more_steps_to_be_resumed(tmp_path: Path) -> None:
    run = finetune.train(*OVERRIDES, "+trainer.max_steps=3", f"output={tmp_path / 'run'}")
    with pytest.raises(ConfigError, match=r"is finished, with 3 steps.*\+trainer.max_steps=6"):
        finetune.train(f"resume={run.folder}")
    finetune.train(f"resume={run.folder}", "+trainer.max_steps=5")
    assert [(row["epoch"], row["step"]) for row in rows(run.folder)] == [("1", "2"), ("2", "4"), ("3", "5")]


def test_changes_that_affect_rounding_are_logged(run_to_resume: Path) -> None:
    path = run_to_resume / "checkpoints" / "last.ckpt"
    state = state_of(path)
    for name, value in {"accelerator": "cuda", "device": "Z80", "strategy": "DDPStrategy", "threads": 99}.items():
        assert name in state["made_by"]
        state["made_by"][name] = value
    torch.save(state, path)
    finetune.train(f"resume={run_to_resume}", WITHOUT_STOP)
    log = (run_to_resume / "train.log").read_text()
    changed = ("accelerator cpu instead of cuda", "instead of Z80", "instead of DDPStrategy", "threads 1 instead of 99")
    assert [text for text in changed if text not in log] == []
    assert log.count("instead of") == len(changed)
