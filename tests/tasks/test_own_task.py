"""A task and a loss from outside the package: each is a class and an entry in its table."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import finetune
from finetune.checkpoints.saved_model import save_model
from finetune.config.errors import ConfigError
from finetune.inference import ClassIndices
from finetune.losses import LOSSES, Reduce, no_reduction
from finetune.metrics.evaluator import Row
from finetune.models import Segmenter
from finetune.tasks import TASKS, TuningTask
from tests.samples import SYNTHETIC

pytestmark = pytest.mark.usefixtures("without_figures")


class HitRate:
    """A toy evaluator of two count tensors: the pixels that are right and those that count, per class."""

    def __init__(self, class_names: Sequence[str], ignore_index: int = 255) -> None:
        self.class_names = tuple(class_names)
        self.ignore_index = ignore_index
        self.reset()

    def reset(self) -> None:
        self.right = torch.zeros(len(self.class_names), dtype=torch.int64)
        self.images = torch.zeros((), dtype=torch.int64)
        self.all = torch.zeros_like(self.right)

    def update(self, prediction: Tensor, target: Tensor) -> None:
        for index in range(len(self.class_names)):
            self.right[index] += ((prediction == index) & (target == index)).sum()
            self.all[index] += (target == index).sum()
        self.images += len(target)

    def counts(self) -> dict[str, Tensor]:
        return {"right": self.right, "images": self.images, "all": self.all}

    def compute(self, counts: Mapping[str, Tensor]) -> dict[str, float]:
        return {"hit_rate": float(counts["right"].sum() / counts["all"].sum()), "images": float(counts["images"])}

    def class_rows(self, counts: Mapping[str, Tensor]) -> list[Row]:
        rates = (counts["right"] / counts["all"]).tolist()
        return [{"class": name, "hit_rate": rate} for name, rate in zip(self.class_names, rates, strict=True)]

    def confusion_matrix(self, counts: Mapping[str, Tensor]) -> None:
        return None

    def table(self, counts: Mapping[str, Tensor]) -> str:
        return f"hit rate {self.compute(counts)['hit_rate']:.4f}"


class ToyLoss(nn.Module):
    """The mean squared error of the probabilities, with an option of its own."""

    target_formats = ("indices",)

    def __init__(self, scale: float = 1.0, *, ignore_index: int = 255, auxiliary_weight: float = 0.4) -> None:
        super().__init__()
        self.scale, self.ignore_index, self.auxiliary_weight = scale, ignore_index, auxiliary_weight

    def forward(self, logits: Tensor, target: Tensor, reduce: Reduce = no_reduction) -> Tensor:
        valid = target != self.ignore_index
        truth = nn.functional.one_hot(target.where(valid, 0).long(), logits.shape[1]).movedim(-1, 1)
        squares = valid[:, None] * (logits.float().softmax(1) - truth) ** 2
        total, count = reduce(torch.stack([squares.sum(), squares.new_tensor(squares.numel())])).unbind()
        return self.scale * total / count


class ToyTask(TuningTask):
    """A task on the plain base, without the pixelwise one."""

    name = "toy"
    evaluator_type = HitRate
    output_type = ClassIndices

    def __init__(self, model: Segmenter, loss: Any = None, ignore_index: int = 255, **options: Any) -> None:
        names = model.class_names
        super().__init__(model, HitRate(names, ignore_index), ClassIndices(names), **options)
        self.loss = loss or ToyLoss()

    @classmethod
    def accepts(cls, loss: type[Any]) -> bool:
        return loss is ToyLoss

    @classmethod
    def check_target(cls, target: Tensor, class_names: Sequence[str], ignore_index: int) -> None:
        assert target.ndim == 2

    def losses(self, batch: Any, reduce: Reduce = no_reduction) -> tuple[Tensor, Tensor]:
        logits = self.model(self.model.normalize(batch["image"]))
        return self.loss(logits, batch["mask"], reduce), logits.new_zeros(())

    def count_images(self, batch: Any) -> Tensor:
        return torch.tensor(len(batch["image"]))

    def evaluate(self, batch: Any) -> None:
        for group in batch:
            logits = self.model(self.model.normalize(group["image"]))
            self.evaluator.update(self.output.decode(logits), group["mask"])
            self.eval_loss.add(self.loss(logits, group["mask"]), self.count_images(group))

    def dummy_batch(self, shape: tuple[int, int, int, int]) -> Any:
        return {"image": torch.zeros(shape, dtype=torch.uint8), "mask": torch.zeros(shape[0], *shape[2:])}


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Return the toy task and loss, by name."""
    monkeypatch.setitem(TASKS, "toy", ToyTask)
    monkeypatch.setitem(LOSSES, "toy", ToyLoss)


OVERRIDES = ("task.name=toy", "loss=cross_entropy", "loss.name=toy", "~loss.label_smoothing", "~loss.class_weights")
OVERRIDES += ("+loss.scale=2.0", "checkpoint.monitor=val/hit_rate", "checkpoint.mode=max")


def test_a_task_and_a_loss_of_ones_own_train_score_and_predict(toys: None, folder: Path) -> None:
    run = finetune.train(*SYNTHETIC, *OVERRIDES, "output=run")
    assert run.scores.keys() == {"hit_rate", "images"}
    assert run.scores["images"] == 2
    evaluation = folder / "run" / "evaluation" / "test"
    assert sorted(path.name for path in evaluation.iterdir()) == ["classes.csv", "scores.json"]
    assert json.loads((folder / "run" / "model" / "config.json").read_text())["task"] == {"name": "toy"}
    assert finetune.evaluate("run=run").scores == pytest.approx(run.scores)
    assert finetune.load("run").predict_image(torch.zeros(3, 20, 30, dtype=torch.uint8)).shape == (20, 30)
    with pytest.raises(ConfigError, match="slices, boundaries: task=toy has no masks to compare"):
        finetune.evaluate("run=run", "boundaries=true", "slices=[brightness]")


def test_a_loss_that_does_not_fit_the_task_is_refused_with_those_that_do(toys: None, folder: Path) -> None:
    with pytest.raises(ValueError, match=r"loss=ce_dice does not fit task=toy. Choose from: toy\."):
        finetune.train(*SYNTHETIC, "task.name=toy", "output=run")
    assert not (folder / "run").exists()


def test_a_model_of_an_unknown_task_is_refused(toys: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Segmenter("test_resnet.r160_in1k", "linear", 2, weights="none")
    save_model(tmp_path, model, {}, {}, ToyTask(model).config())
    assert finetune.load(tmp_path).class_names == model.class_names
    monkeypatch.delitem(TASKS, "toy")
    with pytest.raises(ValueError, match=r"unknown task.name 'toy'. Choose from: semantic, multilabel"):
        finetune.load(tmp_path)
