"""What runs on the device of a training gets by without float64, which Apple's GPUs do not have."""

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from finetune.metrics.calibration import Confidences
from finetune.metrics.image_statistics import ImageStatistics
from finetune.metrics.label_doubt import TEMPERATURE, label_quality
from finetune.metrics.overlaps import ImageOverlaps
from finetune.tasks import SemanticTask
from tests.tasks.tiny_run import tiny_data, tiny_task


class WithoutFloat64(TorchDispatchMode):
    """Fails where an operation makes float64, as on an Apple GPU."""

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = operation(*args, **(kwargs or {}))
        for value in found if isinstance(found, tuple | list) else (found,):
            if isinstance(value, torch.Tensor) and value.dtype == torch.float64:
                raise TypeError(f"{operation} makes float64")
        return found


def on_such_a_device(step: Callable[..., Any]) -> Callable[..., Any]:
    def checked(*args: Any, **kwargs: Any) -> Any:
        with WithoutFloat64():
            return step(*args, **kwargs)

    return checked


@pytest.fixture
def without_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("tasks.loss_mean", "tasks.scored_task", "metrics.label_doubt", "callbacks.diagnosis"):
        monkeypatch.setattr(f"finetune.{place}.widest_float", lambda device: torch.float32)
    for name in ("training_step", "validation_step", "test_step"):
        monkeypatch.setattr(SemanticTask, name, on_such_a_device(getattr(SemanticTask, name)))


def trainer() -> pl.Trainer:
    options: Any = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    return pl.Trainer(accelerator="cpu", max_epochs=2, **options)


@pytest.mark.usefixtures("without_float64")
def test_a_training_and_its_measurements_need_no_float64() -> None:
    task, data, running = tiny_task(), tiny_data(), trainer()
    running.fit(task, datamodule=data)
    assert float(running.callback_metrics["val/loss"]) > 0
    images, classes = len(data.val), len(task.model.class_names)
    task.measurements = {
        "overlaps": ImageOverlaps(images, classes, task.ignore_index),
        "confidences": Confidences(1, task.ignore_index),
        "statistics": ImageStatistics(images, task.ignore_index),
    }
    running.validate(task, datamodule=data, verbose=False)
    assert set(task.sum_measurements()) == set(task.measurements)


@pytest.mark.usefixtures("without_float64")
def test_the_doubt_about_labels_needs_no_float64() -> None:
    probabilities = torch.rand(2, 5, 5)
    found = on_such_a_device(label_quality)(probabilities)
    assert found.dtype == torch.float32
    weights = (-probabilities.double() / TEMPERATURE).exp()
    expected = (weights * probabilities).sum((1, 2)) / weights.sum((1, 2))
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-5)


def test_float64_would_be_noticed() -> None:
    with pytest.raises(TypeError, match="makes float64"):
        on_such_a_device(torch.Tensor.double)(torch.ones(1))
