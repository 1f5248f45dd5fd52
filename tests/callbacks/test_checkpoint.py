"""Checkpoints of short trainings, read back as plain data."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from finetune.callbacks import Checkpoint, EarlyStopping, IoU, Tuning
from finetune.checkpoint import load_model
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


def trained(folder: Path, saver: Checkpoint, *callbacks: pl.Callback, epochs: int = 1) -> SemanticTask:
    task = tiny_task()
    trainer = tiny_trainer(
        Tuning(), IoU(), *callbacks, saver, max_epochs=epochs, default_root_dir=folder, enable_checkpointing=True
    )
    trainer.fit(task, datamodule=tiny_data())
    return task


def read(folder: Path, name: str) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / name, weights_only=True)


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
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    assert read(tmp_path, "best.ckpt")["epoch"] == best
    assert same(read(tmp_path, "best.ckpt")["state_dict"], noted.weights[best])
    assert not same(noted.weights[best], noted.weights[0])
    assert read(tmp_path, "last.ckpt")["epoch"] == 3
    assert same(read(tmp_path, "last.ckpt")["state_dict"], task.state_dict())
    assert Path(saver.best_model_path) == tmp_path / "checkpoints" / "best.ckpt"
    assert float(saver.best_model_score) == pytest.approx(scores[best])


def test_an_equal_score_later_does_not_replace_the_best(tmp_path: Path) -> None:
    trained(tmp_path, Checkpoint("val/score"), Scores(0.5, 0.5, 0.5), epochs=3)
    assert read(tmp_path, "best.ckpt")["epoch"] == 0


def test_a_checkpoint_holds_plain_data_and_all_that_a_resume_needs(tmp_path: Path) -> None:
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
