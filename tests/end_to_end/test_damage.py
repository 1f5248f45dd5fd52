"""Corrupt checkpoints: found before they are used, with the file to use instead."""

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
from finetune.commands import final_weights
from finetune.config.errors import ConfigError
from finetune.io.safe_files import FileError
from finetune.models import Segmenter
from finetune.runs.resume import find_resume_point, newest_unfinished_run
from tests.samples import MODEL

STATE: dict[str, Any] = {"made_by": {}, "model_config": {}, "SegmentationData": {}, "loops": {}, "x": torch.ones(500)}


@pytest.fixture(autouse=True)
def _log_propagates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("finetune"), "propagate", True)  # a training in this process turns it off


def flip(path: Path) -> Path:
    """Flip one bit of a tensor; hard links to the file keep the old content."""
    content = bytearray(path.read_bytes())
    content[content.index(torch.ones(8).numpy().tobytes()) + 5] ^= 1
    path.unlink()
    path.write_bytes(content)
    return path


def unfinished_run(folder: Path, best: int = 0) -> Path:
    """Create the folder of an unfinished run with a number of best scores."""
    saved = {"Checkpoint": {"best": [{"score": 0.5, "epoch": 1, "step": 2}] * best}}
    for name in ("last_2.ckpt", "last.ckpt"):
        write({**STATE, "callbacks": saved}, folder / "checkpoints" / name)
    (folder / "config.yaml").write_text(yaml.safe_dump({"name": "mine", "output": str(folder)}))
    return folder


def resumed_from(folder: Path) -> str:
    point = find_resume_point({"resume": str(folder), "name": "mine", "output": "new"}, [])
    assert point is not None
    return point.checkpoint.name


def test_the_next_intact_checkpoint_of_the_same_name_comes_first(tmp_path: Path) -> None:
    for name in ("best", "best_2", "best_3", "last", "last_2", "last_10", "next", "mine"):
        write(STATE, tmp_path / f"{name}.ckpt")
    order = []
    best = tmp_path / "best.ckpt"
    while (other := next_intact_checkpoint(best)) is not None:
        order.append(other.stem)
        flip(other)
    assert order == ["best_2", "best_3", "last", "last_2", "last_10"]


def empty(path: Path) -> None:
    path.write_bytes(b"")


def of_another_program(path: Path) -> None:
    torch.save({"state_dict": {}}, path)


def a_list(path: Path) -> None:
    torch.save([1], path)


def dangling(path: Path) -> None:
    """Replace the file by a link to nothing."""
    path.unlink()
    path.symlink_to("nowhere")


@pytest.mark.parametrize("harm", [flip, empty, of_another_program, a_list, dangling])
def test_a_run_resumes_from_its_newest_usable_checkpoint(
    harm: Callable[[Path], Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = unfinished_run(tmp_path / "run")
    harm(folder / "checkpoints" / "last.ckpt")
    assert resumed_from(folder) == "last_2.ckpt"
    assert "The one before it is used." in caplog.text
    harm(folder / "checkpoints" / "last_2.ckpt")
    with pytest.raises(ConfigError, match="cannot be resumed: all 2 checkpoints in it are corrupt"):
        resumed_from(folder)


@pytest.mark.parametrize("harm", [flip, empty, Path.unlink])
def test_a_resumed_run_warns_of_lost_best_weights(
    harm: Callable[[Path], Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = unfinished_run(tmp_path / "run", best=2)
    best = folder / "checkpoints" / "best.ckpt"
    write(STATE, best)
    write(STATE, best.with_name("best_2.ckpt"))
    assert resumed_from(folder) == "last.ckpt"
    assert caplog.text == ""
    harm(best)
    assert resumed_from(folder) == "last.ckpt"
    assert f"the best weights so far cannot be read from '{best}'" in caplog.text
    assert f"The next intact one: {best.with_name('best_2.ckpt')}." in caplog.text


def test_best_weights_are_read_only_if_they_exist_and_are_not_the_last(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    resumed_from(unfinished_run(tmp_path / "none"))
    folder = unfinished_run(tmp_path / "run", best=1) / "checkpoints"
    link(folder / "last.ckpt", folder / "best.ckpt")
    checked: list[str] = []
    monkeypatch.setattr("finetune.runs.resume.find_corruption", lambda path: checked.append(path.name))
    resumed_from(folder.parent)
    assert checked == ["last.ckpt"]
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


def test_a_training_fails_if_its_best_checkpoint_becomes_corrupt(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def corrupted(trainer: pl.Trainer, run: Path, monitor: str) -> tuple[Path, float]:
        best, score = original(trainer, run, monitor)
        content = bytearray(best.read_bytes())
        content[len(content) // 2] ^= 1
        best.write_bytes(content)
        return best, score

    original = final_weights._best
    monkeypatch.setattr("finetune.commands.final_weights._best", corrupted)
    with pytest.raises(FileError, match=r"best\.ckpt' cannot be read: the checksum of its entry"):
        finetune.train(*MODEL, "data=synthetic", "data.count=4", "data.size=32", "trainer.max_epochs=1", "output=run")
    assert not (folder / "run" / "model").exists()


@pytest.mark.parametrize("harm", ["config", "link", "list"])
def test_a_damaged_neighboring_run_is_skipped_and_named(
    harm: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, other = unfinished_run(tmp_path / "run"), unfinished_run(tmp_path / "other")
    if harm == "config":
        (other / "config.yaml").write_text("[" * 100_000)
    elif harm == "link":
        (other / "checkpoints" / "far").symlink_to("/etc/passwd")
    else:
        (other / "config.yaml").write_text("[1, 2]")
    assert newest_unfinished_run([other, folder], "mine") == folder
    assert f"'{other}' is skipped: " in caplog.text
