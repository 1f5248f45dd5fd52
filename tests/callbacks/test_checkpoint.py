"""Checkpoints of short trainings, read back as plain data."""

import logging
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from finetune.callbacks import ApplyTuningPlan, Checkpoint, EarlyStopping, IoU
from finetune.checkpoints import rotation
from finetune.checkpoints.checkpoint_io import CheckpointFiles
from finetune.checkpoints.rotation import link
from finetune.checkpoints.saved_model import load_model
from finetune.tasks import SemanticTask
from tests.tasks.tiny_run import tiny_data, tiny_task, tiny_trainer


class Scores(pl.Callback):
    """Logs a given score after each epoch, and keeps the weights of each."""

    def __init__(self, *scores: float) -> None:
        self.scores = scores
        self.weights: list[dict[str, torch.Tensor]] = []

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.log("val/score", self.scores[trainer.current_epoch])
        self.weights.append({name: tensor.clone() for name, tensor in pl_module.state_dict().items()})


def trained(
    folder: Path,
    saver: Checkpoint,
    *callbacks: pl.Callback,
    epochs: int = 1,
    plugin: Any = None,
    resume: str | None = None,
) -> SemanticTask:
    task = tiny_task()
    options = {"max_epochs": epochs, "default_root_dir": folder, "plugins": plugin and plugin()}
    trainer = tiny_trainer(ApplyTuningPlan(), IoU(), *callbacks, saver, enable_checkpointing=True, **options)
    path = folder / "checkpoints" / resume if resume else None
    trainer.fit(task, datamodule=tiny_data(), ckpt_path=path, weights_only=True if resume else None)
    return task


class OneWeight(pl.LightningModule):
    """The smallest module that trains; two steps an epoch, as for `trained`."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.weight * 0

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", 1.0)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def scored(
    folder: Path, saver: Checkpoint, *callbacks: pl.Callback, epochs: int, plugin: Any = None, resume: bool = False
) -> None:
    """Train a module of one weight, for tests of the order of checkpoints; resume from `last.ckpt` if asked to."""
    options = {"max_epochs": epochs, "default_root_dir": folder, "plugins": plugin and plugin()}
    trainer = tiny_trainer(*callbacks, saver, enable_checkpointing=True, **options)
    loader = torch.utils.data.DataLoader(range(4), batch_size=2)
    path = folder / "checkpoints" / "last.ckpt" if resume else None
    trainer.fit(OneWeight(), loader, loader, ckpt_path=path, weights_only=True if resume else None)


def read(folder: Path, name: str) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / name, weights_only=True)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def same(state: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return list(state) == list(expected) and all(torch.equal(state[name], expected[name]) for name in state)


@pytest.mark.parametrize(
    ("mode", "scores", "best"),
    [("max", (0.2, 0.5, 0.4, 0.3), 1), ("min", (0.4, 0.3, 0.2, 0.5), 2), ("max", (0.1, 0.2, 0.3, 0.4), 3)],
)
def test_best_is_the_best_epoch_and_last_the_last(
    mode: str, scores: tuple[float, ...], best: int, tmp_path: Path
) -> None:
    noted, saver = Scores(*scores), Checkpoint("val/score", mode)
    task = trained(tmp_path, saver, noted, epochs=4)
    assert names(tmp_path) == ["best.ckpt", "last.ckpt", "last_2.ckpt"]
    assert read(tmp_path, "best.ckpt")["epoch"] == best
    assert same(read(tmp_path, "best.ckpt")["state_dict"], noted.weights[best])
    assert not same(noted.weights[best], noted.weights[0])
    assert read(tmp_path, "last.ckpt")["epoch"] == 3
    assert same(read(tmp_path, "last.ckpt")["state_dict"], task.state_dict())
    assert saver.best_path == tmp_path / "checkpoints" / "best.ckpt"
    assert saver.best == [{"score": pytest.approx(scores[best]), "epoch": best + 1, "step": 2 * best + 2}]


def test_an_equal_score_later_does_not_replace_the_best(tmp_path: Path) -> None:
    scored(tmp_path, Checkpoint("val/score", "max"), Scores(0.5, 0.5, 0.5), epochs=3)
    assert read(tmp_path, "best.ckpt")["epoch"] == 0


def test_a_checkpoint_holds_plain_data_and_everything_that_a_resume_needs(tmp_path: Path) -> None:
    trained(tmp_path, Checkpoint(), EarlyStopping())
    for name in ("best.ckpt", "last.ckpt"):
        content = read(tmp_path, name)
        assert {"epoch", "global_step", "state_dict", "optimizer_states", "lr_schedulers", "loops"} <= set(content)
        assert content["global_step"] == 2


def test_the_model_can_be_rebuilt_from_a_checkpoint_alone(tmp_path: Path) -> None:
    task = trained(tmp_path, Checkpoint())
    assert read(tmp_path, "last.ckpt")["model_config"] == task.model.config()
    model = load_model(tmp_path / "checkpoints" / "last.ckpt").model
    images = torch.randint(0, 256, (1, 3, 37, 53), dtype=torch.uint8)
    with torch.no_grad():
        expected = task.model.eval()(task.model.normalize(images))
        # the task keeps its weights in another memory format, which rounds differently
        assert torch.allclose(model(model.normalize(images)), expected, atol=1e-4)


def test_a_frozen_backbone_is_in_the_checkpoint_too(tmp_path: Path) -> None:
    task = trained(tmp_path, Checkpoint())
    assert set(read(tmp_path, "best.ckpt")["state_dict"]) == set(task.state_dict())


@pytest.mark.parametrize("plugin", [None, CheckpointFiles])
def test_the_last_n_and_the_best_k_are_kept_in_order(plugin: Any, tmp_path: Path) -> None:
    scores = (0.3, 0.5, 0.1, 0.4, 0.2)
    saver = Checkpoint("val/score", "max", keep_last=3, keep_best=2)
    scored(tmp_path, saver, Scores(*scores), epochs=5, plugin=plugin)
    assert names(tmp_path) == ["best.ckpt", "best_2.ckpt", "last.ckpt", "last_2.ckpt", "last_3.ckpt"]
    kept = {name: read(tmp_path, name)["epoch"] for name in names(tmp_path)}
    assert kept == {"best.ckpt": 1, "best_2.ckpt": 3, "last.ckpt": 4, "last_2.ckpt": 3, "last_3.ckpt": 2}


class Killed(Exception):
    """Ends a training in these tests."""


@pytest.mark.parametrize("links", range(5))
def test_the_best_are_in_order_again_after_a_kill_between_any_two_links(
    links: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the fourth epoch, which is the best: before its n-th name, of the best or of the last."""
    scores, names_given = (0.6, 0.5, 0.4, 0.7, 0.1), iter(range(100))

    def dies(source: Path, target: Path) -> None:
        if epoch[0] == 3 and next(names_given) == links:
            raise Killed
        link(source, target)

    class Epoch(pl.Callback):
        def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            epoch[0] = trainer.current_epoch

    epoch, options = [0], {"keep_last": 3, "keep_best": 3}
    with monkeypatch.context() as patched:
        patched.setattr(rotation, "link", dies)
        with pytest.raises(Killed):
            scored(tmp_path, Checkpoint("val/score", "max", **options), Scores(*scores), Epoch(), epochs=5)
    saver = Checkpoint("val/score", "max", **options)
    scored(tmp_path, saver, Scores(*scores), epochs=5, resume=True)
    assert [entry["step"] for entry in saver.best] == [8, 2, 4]
    kept = [read(tmp_path, name)["global_step"] for name in ("best.ckpt", "best_2.ckpt", "best_3.ckpt")]
    assert kept == [8, 2, 4]


def test_a_best_checkpoint_whose_file_is_missing_is_forgotten(tmp_path: Path) -> None:
    scored(tmp_path, Checkpoint("val/score", "max"), Scores(0.9, 0.1), epochs=2)
    (tmp_path / "checkpoints" / "best.ckpt").unlink()
    saver = Checkpoint("val/score", "max")
    scored(tmp_path, saver, Scores(0.9, 0.1, 0.2, 0.1), epochs=4, resume=True)
    assert [entry["step"] for entry in saver.best] == [6]
    assert read(tmp_path, "best.ckpt")["global_step"] == 6


@pytest.mark.parametrize(("monitor", "mode"), [("val/loss", "min"), ("val/score", "min")])
def test_scores_of_another_monitor_or_mode_are_not_compared(
    monitor: str, mode: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    scored(tmp_path, Checkpoint("val/score", "max", keep_best=2), Scores(0.01, 0.02), epochs=2)
    saver = Checkpoint(monitor, mode, keep_best=2)
    scored(tmp_path, saver, Scores(0.01, 0.02, 0.5), epochs=3, resume=True)
    (entry,) = saver.best
    assert entry["step"] == 6
    assert read(tmp_path, "best.ckpt")["global_step"] == 6
    assert f"checkpoint.monitor={monitor} checkpoint.mode={mode} instead of val/score and max" in caplog.text


def test_steps_are_saved_inside_an_epoch_and_the_last_one_with_the_epoch(tmp_path: Path) -> None:
    saved: list[int] = []

    class Notes(Checkpoint):
        def save(self, trainer: pl.Trainer, as_last: bool = True) -> None:
            saved.append(trainer.global_step)
            super().save(trainer, as_last)

    task = tiny_task()
    saver = Notes(every_n_steps=2)
    trainer = tiny_trainer(
        ApplyTuningPlan(), IoU(), saver, max_epochs=2, default_root_dir=tmp_path, enable_checkpointing=True
    )
    trainer.fit(task, datamodule=tiny_data(train=20))
    assert saved == [2, 4, 5, 6, 8, 10]


def test_the_clock_makes_checkpoints_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    minutes = iter(range(1000))
    monkeypatch.setattr("finetune.callbacks.checkpoint.time.monotonic", lambda: 60.0 * next(minutes))
    trained(tmp_path, Checkpoint(every_n_minutes=1), epochs=1)
    assert read(tmp_path, "last_2.ckpt")["global_step"] == 1  # of two steps


@pytest.mark.parametrize(
    "options",
    [{"mode": "best"}, {"every_n_steps": 0}, {"every_n_minutes": -1.0}, {"keep_last": 0}, {"keep_best": 0}],
)
def test_invalid_settings_are_rejected_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Checkpoint(**options)


def test_a_monitor_that_is_not_logged_is_rejected_with_the_logged_names(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"val/score.*not logged.*val/iou"):
        trained(tmp_path, Checkpoint("val/score", "max"))
