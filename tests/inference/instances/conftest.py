"""A model of objects that can be checked by hand."""

from collections.abc import Callable
from typing import Any

import pytest

from finetune.inference.instances import InstancePredictor
from finetune.models import INSTANCE_HEADS
from finetune.models.blending import SlidingWindow
from tests.inference.instances.color_model import CLASSES, ColorHead, ColorModel


@pytest.fixture
def predict_with(monkeypatch: pytest.MonkeyPatch) -> Callable[..., InstancePredictor]:
    """Return a function that gives a predictor with a window."""
    monkeypatch.setitem(INSTANCE_HEADS, "color", ColorHead)

    def build(window: Any = None, overlap: float = 0.25, batch_size: int = 1) -> InstancePredictor:
        model = ColorModel("test_resnet.r160_in1k", "color", CLASSES, weights="none", mean=[0.5] * 3, std=[0.5] * 3)
        return InstancePredictor(model, "cpu", batch_size=batch_size, window=SlidingWindow(window, overlap))

    return build
