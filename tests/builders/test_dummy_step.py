"""Training steps outside of a training compute as it would."""

import torch

from finetune.builders.dummy_step import training_precision
from tests.tasks.tiny_run import tiny_task


def test_depthwise_convolutions_compute_in_float32_within_the_context_only() -> None:
    task = tiny_task()
    task.model.backbone.depthwise = torch.nn.Conv2d(8, 8, 3, groups=8)
    layer, images = task.model.backbone.depthwise, torch.randn(1, 8, 6, 6)
    for _ in range(2):
        with training_precision(task, "cpu", torch.bfloat16):
            assert layer(images).dtype == torch.float32
        assert not layer._forward_hooks
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(images).dtype == torch.bfloat16
    with training_precision(task, "cpu", None):
        assert layer(images).dtype == torch.float32
