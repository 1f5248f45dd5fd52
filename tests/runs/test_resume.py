"""Runs that were stopped, and go on by the words of the command."""

import csv
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
from tests.samples import COMMAND, DRAWN, clean_environment, draw_folder, exit_code, on_folder

WORDS = (*DRAWN, "trainer.max_epochs=3", "checkpoint.every_n_steps=1", "callbacks.preview=null")
GO_ON = "+callbacks.stop=null"
STOP = "+callbacks.stop._target_=tests.runs.test_resume.Stop"


class Stop(pl.Callback):
    """Ends the training, as an error or a signal would, before its batch of that number."""

    def __init__(self, batch: int = 3, number: int = 0) -> None:
        self.batch = batch
        self.number = number

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.fit_loop.total_batch_idx == self.batch:
            if not self.number:
                raise RuntimeError("something broke")
            os.kill(os.getpid(), self.number)


def stopped(folder: Path, *words: str, batch: int = 3) -> Path:
    """A run that broke before a batch."""
    with pytest.raises(RuntimeError, match="something broke"):
        finetune.train(*WORDS, f"output={folder}", STOP, f"+callbacks.stop.batch={batch}", *words)
    return folder


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def same_weights(one: Path, other: Path) -> bool:
    states = [load_file(folder / "model" / "model.safetensors") for folder in (one, other)]
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return finetune.train(*WORDS, f"output={tmp_path_factory.mktemp('runs') / 'whole'}")


def test_a_run_that_broke_goes_on_to_the_same_end(tmp_path: Path, whole: TrainResult) -> None:
    stopped(tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()
    run = finetune.train(f"resume={tmp_path / 'run'}", GO_ON)
    assert run.folder == tmp_path / "run"
    assert run.score == whole.score
    assert run.scores == whole.scores
    assert rows(run.folder) == rows(whole.folder)
    assert same_weights(run.folder, whole.folder)
    told = json.loads((run.folder / "env.json").read_text())
    assert told["finished"]
    assert len(told["resumed"]) == 1
    log = (run.folder / "train.log").read_text()
    assert "something broke" in log
    assert f"resuming {run.folder} after step 3" in log


def test_what_broke_says_what_was_saved_and_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("train", *WORDS, f"output={tmp_path / 'run'}", STOP) == 1
    told = capsys.readouterr().err
    assert "error: something broke" in told
    assert f"saved: {tmp_path / 'run' / 'checkpoints' / 'last.ckpt'}, 1 whole epochs, step 3" in told
    assert f"finetune train resume={tmp_path / 'run'}" in told


def test_the_same_command_with_auto_begins_goes_on_and_begins_again(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    words = (*WORDS, "resume=auto", "name=mine")
    with pytest.raises(RuntimeError, match="something broke"):
        finetune.train(*words, STOP)
    (first,) = (tmp_path / "outputs" / "mine").iterdir()
    assert finetune.train(*words, GO_ON).folder == first
    assert finetune.train(*words, "output=outputs/mine/other").folder.name == "other"


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("backbone.name=test_resnet2.r160_in1k", "test_resnet2"),
        ("optimizer.lr=0.5", "optimizer.lr=0.5, where the run has"),
        ("seed=7", "seed=7, where the run has 0"),
        ("head=unet", "head.name=unet, where the run has fpn"),
        ("average=ema", "callbacks.average"),
        ("data.batch_size=3", "images in a step"),
        ("trainer.devices=3", "3 devices cannot share"),
        ("trainer.max_epochs=0", "max_epochs"),
    ],
)
def test_what_would_be_another_training_is_refused(word: str, said: str, broken: Path) -> None:
    before = sorted(broken.rglob("*"))
    with pytest.raises(ConfigError, match=said):
        finetune.train(f"resume={broken}", GO_ON, word)
    assert sorted(broken.rglob("*")) == before


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stopped(tmp_path_factory.mktemp("runs") / "broken")


def test_a_folder_that_is_named_is_the_only_one_that_is_meant(broken: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    with pytest.raises(ConfigError, match="goes on in its own folder"):
        finetune.train(f"resume={broken}", GO_ON, f"output={other}")
    with pytest.raises(RuntimeError, match="something broke"):  # a new run, though its neighbor was not finished
        finetune.train(*WORDS, STOP, "resume=auto", f"output={broken.parent / 'new'}")
    assert finetune.train(*WORDS, GO_ON, "resume=auto", f"output={broken.parent / 'new'}").folder.name == "new"


def test_what_looks_at_a_training_from_its_start_does_not_resume(broken: Path) -> None:
    for look in (finetune.plan, finetune.find_lr, finetune.find_batch_size):
        with pytest.raises(ConfigError, match="Leave resume out"):
            look(f"resume={broken}")


def test_another_way_to_write_the_same_precision_is_no_other_precision(tmp_path: Path) -> None:
    folder = stopped(tmp_path / "run", "trainer.precision=32")
    finetune.train(f"resume={folder}", GO_ON)
    assert "instead of" not in (folder / "train.log").read_text()


def test_a_finished_run_is_trained_for_longer_when_it_is_told_how_long(tmp_path: Path) -> None:
    run = finetune.train(*WORDS, f"output={tmp_path / 'run'}")
    with pytest.raises(ConfigError, match=r"is finished, with 3 epochs.*max_epochs=6"):
        finetune.train(f"resume={run.folder}")
    longer = finetune.train(f"resume={run.folder}", "trainer.max_epochs=4")
    assert [row["epoch"] for row in rows(longer.folder)] == ["1", "2", "3", "4"]
    assert longer.score >= run.score


def test_a_run_that_is_trained_for_longer_does_not_freeze_what_it_had_unfrozen(tmp_path: Path) -> None:
    run = finetune.train(*WORDS, f"output={tmp_path / 'run'}", "tuning=gradual")
    finetune.train(f"resume={run.folder}", "trainer.max_epochs=7")
    changes = [line for line in (run.folder / "train.log").read_text().splitlines() if re.search(r"epoch \d+: ", line)]
    assert "unfroze" in changes[0]
    assert "as in the checkpoint" in changes[-1]
    assert not [line for line in changes if re.search(r"\bfroze\b", line)]


def test_a_run_that_was_stopped_early_goes_on_with_more_patience_or_none(tmp_path: Path) -> None:
    stops = ("callbacks.early_stopping.patience=1", "callbacks.early_stopping.min_delta=1")
    run = finetune.train(*WORDS, f"output={tmp_path / 'run'}", *stops)
    assert len(rows(run.folder)) == 2
    with pytest.raises(ConfigError, match=r"stopped early after 2 epochs.*callbacks.early_stopping.patience=2"):
        finetune.train(f"resume={run.folder}", "trainer.max_epochs=9")
    finetune.train(f"resume={run.folder}", "callbacks.early_stopping.patience=2")
    assert len(rows(run.folder)) == 3
    finetune.train(f"resume={run.folder}", "trainer.max_epochs=5", "~callbacks.early_stopping")
    assert len(rows(run.folder)) == 5


def test_a_damaged_checkpoint_is_found_and_the_one_before_it_taken(
    tmp_path: Path, whole: TrainResult, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = stopped(tmp_path / "run", batch=4)
    last = folder / "checkpoints" / "last.ckpt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    with pytest.raises(ConfigError, match=r"is corrupt: the checksum.*last_2.ckpt"):
        finetune.train(f"resume={last}")
    run = finetune.train(f"resume={folder}", GO_ON)
    assert "The one before it is used" in capsys.readouterr().out
    assert same_weights(run.folder, whole.folder)


def test_a_disk_that_is_full_ends_the_run_and_what_was_saved_before_stays_good(
    tmp_path: Path, whole: TrainResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    saves = iter(range(100))

    def fills(handle: int) -> None:
        if next(saves) > 12:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    folder = tmp_path / "run"
    with monkeypatch.context() as full:
        full.setattr("os.fsync", fills)
        with pytest.raises(OSError, match="No space left") as caught:
            finetune.train(*WORDS, f"output={folder}")
    notes = "\n".join(caught.value.__notes__)
    assert f"saved: {folder / 'checkpoints' / 'last.ckpt'}" in notes
    assert f"resume: finetune train resume={folder}" in notes
    assert same_weights(finetune.train(f"resume={folder}").folder, whole.folder)


def test_data_that_moved_is_found_and_data_that_changed_is_said(tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "photos")
    words = (*on_folder(root), "trainer.max_epochs=2", "checkpoint.every_n_steps=1", f"output={tmp_path / 'run'}")
    with pytest.raises(RuntimeError, match="something broke"):
        finetune.train(*words, STOP)
    root.rename(tmp_path / "moved")
    with pytest.raises(ConfigError, match="photos"):
        finetune.train(f"resume={tmp_path / 'run'}", GO_ON)
    draw_folder(tmp_path / "other", seed=1)
    (tmp_path / "other" / "images" / "photo_03.png").replace(tmp_path / "moved" / "images" / "photo_03.png")
    finetune.train(f"resume={tmp_path / 'run'}", GO_ON, f"data.root={tmp_path / 'moved'}")
    assert "1 of 12 images or their masks have changed (photo_03)" in (tmp_path / "run" / "train.log").read_text()


def test_a_new_run_begins_with_the_weights_of_another_for_other_classes(tmp_path: Path, whole: TrainResult) -> None:
    root = draw_folder(tmp_path / "photos")
    run = finetune.train(*on_folder(root), f"init_from={whole.folder}", f"output={tmp_path / 'run'}", "optimizer.lr=0")
    log = (run.folder / "train.log").read_text()
    assert "initialized: head.0.weight, head.0.bias" in log
    before, after = (load_file(folder / "model" / "model.safetensors") for folder in (whole.folder, run.folder))
    kernels = [name for name, tensor in before.items() if tensor.ndim > 1 and not name.startswith("head.")]
    assert len(kernels) > 20
    assert all(torch.equal(before[name], after[name]) for name in kernels)
    with pytest.raises(ConfigError, match="do not fit"):
        finetune.train(*on_folder(root), f"init_from={whole.folder}", "backbone.name=resnet18")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 143), (signal.SIGINT, 130)])
def test_a_process_that_is_told_to_stop_saves_and_says_so(number: int, code: int, tmp_path: Path) -> None:
    """The whole command, with the signal as a cluster sends it."""
    words = (*WORDS, STOP, f"+callbacks.stop.number={int(number)}", f"output={tmp_path / 'run'}")
    done = subprocess.run(
        [COMMAND, *words],
        cwd=tmp_path,
        env=clean_environment(PYTHONPATH=str(Path(__file__).parents[2])),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == code, done.stderr
    assert "finishing the step, then saving" in done.stderr
    assert "2 whole epochs, step 4" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_ended_before_its_first_checkpoint_begins_again_in_its_folder(tmp_path: Path, whole: TrainResult) -> None:
    folder = stopped(tmp_path / "run", batch=0)
    with pytest.raises(ConfigError, match="before its first checkpoint"):
        finetune.train(f"resume={folder}", GO_ON)
    run = finetune.train(*WORDS, f"output={folder}", "resume=auto")
    assert same_weights(run.folder, whole.folder)


def test_two_processes_do_not_train_in_one_folder(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = f"""
import fcntl, sys
file = open({str(broken / "train.log")!r}, "a")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(ConfigError, match="another process trains"):
            finetune.train(f"resume={broken}", GO_ON)
        assert newest_unfinished_run([broken], "run") is None
        monkeypatch.setattr("lightning.pytorch.utilities.rank_zero_only.rank", 1)
        assert newest_unfinished_run([broken], "run") == broken  # it is the first rank of its own run that is there
        holder.communicate()


def state_of(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(path, weights_only=True)
    return state


def test_without_the_checkpoint_callback_a_run_is_saved_where_it_is_stopped_and_goes_on(
    tmp_path: Path, whole: TrainResult, capsys: pytest.CaptureFixture[str]
) -> None:
    without = (*WORDS, "callbacks.checkpoint=null", f"output={tmp_path / 'run'}")
    told = f"+callbacks.stop.number={int(signal.SIGTERM)}"
    assert exit_code("train", *without, STOP, told) == 143
    assert f"saved: {tmp_path / 'run' / 'checkpoints' / 'last.ckpt'}, 2 whole epochs, step 4" in capsys.readouterr().err
    run = finetune.train(f"resume={tmp_path / 'run'}", GO_ON)
    assert same_weights(run.folder, whole.folder) == (whole.score == run.score)  # its last weights are its best
    assert rows(run.folder) == rows(whole.folder)


def test_without_the_checkpoint_callback_the_last_weights_are_the_best(tmp_path: Path) -> None:
    run = finetune.train(*WORDS, "callbacks.checkpoint=null", f"output={tmp_path / 'run'}")
    assert run.best == tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert finetune.load(run.best).model.class_names
    assert state_of(run.best)["SegmentationData"]["epoch"] == 3
    finetune.train(f"resume={run.folder}", "trainer.max_epochs=4")
    assert [row["step"] for row in rows(run.folder)] == ["2", "4", "6", "8"]


def test_where_no_score_is_a_number_the_last_checkpoint_is_the_best_and_is_not_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[str] = []
    save = pl.Trainer.save_checkpoint

    def noted(trainer: pl.Trainer, path: Path, **options: Any) -> None:
        saved.append(path.name)
        save(trainer, path, **options)

    monkeypatch.setattr(pl.Trainer, "save_checkpoint", noted)
    words = (*on_folder(draw_folder(tmp_path / "photos")), "data.classes=[ground,wall,sky,moon]")  # no moon is there
    never = ("checkpoint.monitor=val/iou/moon", "trainer.max_epochs=3")
    run = finetune.train(*words, *never, f"output={tmp_path / 'run'}")
    assert run.best == tmp_path / "run" / "checkpoints" / "last.ckpt"
    states = [state_of(run.best.with_name(name)) for name in ("last.ckpt", "last_2.ckpt")]
    assert [state["SegmentationData"]["epoch"] for state in states] == [3, 2]
    assert [str(state["global_step"]) for state in states] == [row["step"] for row in rows(run.folder)[:0:-1]]
    assert saved == [NEXT] * 3


@pytest.mark.parametrize("content", [{"global_step": 3}, [1], {"SegmentationData": 7, "made_by": {}, "loops": {}}])
def test_what_ended_a_run_is_told_whatever_its_checkpoints_are(content: Any, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    torch.save(content, tmp_path / "checkpoints" / "last.ckpt")
    (line,) = resume_hints(tmp_path)
    assert "none of the 1 checkpoints" in line


def test_a_best_checkpoint_from_inside_an_accumulation_is_refused_with_the_ways_on(tmp_path: Path) -> None:
    inside = ("data.batch_size=2", "trainer.accumulate_grad_batches=2", "+trainer.val_check_interval=3")
    run = finetune.train(*WORDS, *inside, f"output={tmp_path / 'run'}")
    assert not state_of(run.best)["exact"]
    assert state_of(run.best.with_name("last.ckpt"))["exact"]
    more = "trainer.max_epochs=4"
    with pytest.raises(ConfigError, match=rf"accumulated.*resume={run.folder}; .*init_from={run.best}"):
        finetune.train(f"resume={run.best}", more)
    finetune.train(f"resume={run.folder}", more)


def test_a_run_of_so_many_steps_is_trained_for_longer_when_it_is_told_how_long(tmp_path: Path) -> None:
    run = finetune.train(*WORDS, "+trainer.max_steps=3", f"output={tmp_path / 'run'}")
    with pytest.raises(ConfigError, match=r"is finished, with 3 steps.*\+trainer.max_steps=6"):
        finetune.train(f"resume={run.folder}")
    finetune.train(f"resume={run.folder}", "+trainer.max_steps=5")
    assert [(row["epoch"], row["step"]) for row in rows(run.folder)] == [("1", "2"), ("2", "4"), ("3", "5")]


def test_what_the_rounding_depends_on_is_said_where_it_has_changed(tmp_path: Path) -> None:
    folder = stopped(tmp_path / "run")
    path = folder / "checkpoints" / "last.ckpt"
    state = state_of(path)
    for what, value in {"accelerator": "cuda", "device": "Z80", "strategy": "DDPStrategy", "threads": 99}.items():
        assert what in state["made_by"]
        state["made_by"][what] = value
    torch.save(state, path)
    finetune.train(f"resume={folder}", GO_ON)
    log = (folder / "train.log").read_text()
    changed = ("accelerator cpu instead of cuda", "instead of Z80", "instead of DDPStrategy", "threads 1 instead of 99")
    assert [said for said in changed if said not in log] == []
    assert log.count("instead of") == len(changed)
