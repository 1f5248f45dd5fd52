"""Damaged checkpoints: found before anything is made of them, with the file to take instead."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import yaml

import finetune
from finetune.checkpoints.checkpoint_io import write
from finetune.checkpoints.rotation import link, next_intact_checkpoint
from finetune.checkpoints.saved_model import ModelError, load_model
from finetune.commands import train as run
from finetune.config.errors import ConfigError
from finetune.io.safe_files import FileError
from finetune.models import Segmenter
from finetune.runs.resume import find_resume_point, newest_unfinished_run
from tests.samples import MODEL

STATE: dict[str, Any] = {"made_by": {}, "model_config": {}, "SegmentationData": {}, "loops": {}, "x": torch.ones(500)}


@pytest.fixture(autouse=True)
def _heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("finetune"), "propagate", True)  # a training in this process ends that


def flip(path: Path) -> Path:
    """Turn one bit of a tensor over, in a file of its own."""
    content = bytearray(path.read_bytes())
    content[content.index(torch.ones(8).numpy().tobytes()) + 5] ^= 1
    path.unlink()
    path.write_bytes(content)
    return path


def run_of(folder: Path, best: int = 0) -> Path:
    """What is left of a run that was not finished, with so many best scores."""
    saved = {"Checkpoint": {"best": [{"score": 0.5, "epoch": 1, "step": 2}] * best}}
    for name in ("last_2.ckpt", "last.ckpt"):
        write({**STATE, "callbacks": saved}, folder / "checkpoints" / name)
    (folder / "config.yaml").write_text(yaml.safe_dump({"name": "mine", "output": str(folder)}))
    return folder


def chosen(folder: Path) -> str:
    found = find_resume_point({"resume": str(folder), "name": "mine", "output": "new"}, [])
    assert found is not None
    return found.checkpoint.name


def test_the_file_to_take_instead_is_the_next_of_its_kind_that_is_whole(tmp_path: Path) -> None:
    for name in ("best", "best_2", "best_3", "last", "last_2", "last_10", "next", "mine"):
        write(STATE, tmp_path / f"{name}.ckpt")
    order = []
    best = tmp_path / "best.ckpt"
    while (other := next_intact_checkpoint(best)) is not None:
        order.append(other.stem)
        flip(other)
    assert order == ["best_2", "best_3", "last", "last_2", "last_10"]


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def of_somebody_else(path: Path) -> None:
    torch.save({"state_dict": {}}, path)


def no_dict(path: Path) -> None:
    torch.save([1], path)


def away(path: Path) -> None:
    """A link whose end is gone."""
    path.unlink()
    path.symlink_to("nowhere")


@pytest.mark.parametrize("harm", [flip, emptied, of_somebody_else, no_dict, away])
def test_a_run_goes_on_from_the_newest_checkpoint_that_it_can(
    harm: Callable[[Path], Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = run_of(tmp_path / "run")
    harm(folder / "checkpoints" / "last.ckpt")
    assert chosen(folder) == "last_2.ckpt"
    assert "Going on from the one before it." in caplog.text
    harm(folder / "checkpoints" / "last_2.ckpt")
    with pytest.raises(ConfigError, match="cannot go on: all 2 checkpoints in it are damaged"):
        chosen(folder)


@pytest.mark.parametrize("harm", [flip, emptied, Path.unlink])
def test_best_weights_that_are_lost_are_told_of_when_the_run_goes_on(
    harm: Callable[[Path], Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = run_of(tmp_path / "run", best=2)
    best = folder / "checkpoints" / "best.ckpt"
    write(STATE, best)
    write(STATE, best.with_name("best_2.ckpt"))
    assert chosen(folder) == "last.ckpt"
    assert caplog.text == ""
    harm(best)
    assert chosen(folder) == "last.ckpt"
    assert f"the best weights so far cannot be had from '{best}'" in caplog.text
    assert f"The next that is whole: {best.with_name('best_2.ckpt')}." in caplog.text


def test_best_weights_are_not_read_twice_where_they_are_the_last_and_not_missed_where_there_are_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen(run_of(tmp_path / "none"))
    folder = run_of(tmp_path / "run", best=1) / "checkpoints"
    link(folder / "last.ckpt", folder / "best.ckpt")
    looked: list[str] = []
    monkeypatch.setattr("finetune.runs.resume.find_corruption", lambda path: looked.append(path.name))
    chosen(folder.parent)
    assert looked == ["last.ckpt"]
    assert caplog.text == ""


def test_a_flipped_bit_never_becomes_a_model(tmp_path: Path) -> None:
    small = {"pyramid_channels": 32, "segmentation_channels": 32}
    model = Segmenter("test_resnet.r160_in1k", "fpn", 2, weights="none", head_options=small)
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    content = {"state_dict": {**state, "x": torch.ones(500)}, "model_config": model.config()}
    best = tmp_path / "checkpoints" / "best.ckpt"
    for name in ("best.ckpt", "last.ckpt"):
        write(content, best.with_name(name))
    assert load_model(tmp_path).model.classes == 2
    flip(best)
    for path in (tmp_path, best):
        with pytest.raises(ModelError, match=rf"best\.ckpt' cannot be read: the checksum.*'{best.parent}/last\.ckpt'"):
            finetune.load(path)
    flip(best.with_name("last.ckpt"))
    with pytest.raises(ModelError, match=r"best\.ckpt' cannot be read: the checksum of its entry '.*' is wrong\.$"):
        finetune.load(tmp_path)


def test_a_training_does_not_end_with_a_best_checkpoint_that_was_damaged_meanwhile(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(trainer: pl.Trainer, run: Path) -> tuple[Path, float]:
        best, score = kept(trainer, run)
        content = bytearray(best.read_bytes())
        content[len(content) // 2] ^= 1
        best.write_bytes(content)
        return best, score

    kept = run._best
    monkeypatch.setattr("finetune.commands.train._best", damaged)
    with pytest.raises(FileError, match=r"best\.ckpt' cannot be read: the checksum of its entry"):
        finetune.train(*MODEL, "data=synthetic", "data.count=4", "data.size=32", "trainer.max_epochs=1", "output=run")
    assert not (folder / "run" / "model").exists()


@pytest.mark.parametrize("harm", ["config", "link", "list"])
def test_a_damaged_neighbor_is_passed_over_and_named(
    harm: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, other = run_of(tmp_path / "run"), run_of(tmp_path / "other")
    if harm == "config":
        (other / "config.yaml").write_text("[" * 100_000)
    elif harm == "link":
        (other / "checkpoints" / "far").symlink_to("/etc/passwd")
    else:
        (other / "config.yaml").write_text("[1, 2]")
    assert newest_unfinished_run([other, folder], "mine") == folder
    assert f"'{other}' is passed over: " in caplog.text
