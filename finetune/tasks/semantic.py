"""Semantic segmentation: every pixel has exactly one class."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from finetune.inference import ClassIndices
from finetune.losses import CEDice, Loss, TargetFormat
from finetune.metrics.semantic import SemanticEvaluator
from finetune.models import Segmenter
from finetune.tasks.pixel_task import Batch, PixelTask, check_several


class SemanticTask(PixelTask):
    """A softmax over the classes, trained on class indices and scored by a confusion matrix.

    Losses are sums over the global batch and scores come from one matrix, so both are the same on any number of
    devices; and for any batch size, up to the rounding that the other images of a batch cause.

    Args:
        model: the network, of two classes or more.
        loss: of class indices; None for cross-entropy plus Dice.
        ignore_index: label of the pixels to leave out.
        options: further arguments of `TuningTask`.

    Raises:
        ValueError: a single class.
    """

    name: ClassVar[str] = "semantic"
    target_format: ClassVar[TargetFormat] = "indices"
    evaluator_type = SemanticEvaluator
    output_type = ClassIndices

    def __init__(self, model: Segmenter, loss: Loss | None = None, ignore_index: int = 255, **options: Any) -> None:
        check_several(model.class_names)
        loss = loss or CEDice(ignore_index=ignore_index)
        super().__init__(model, loss, ignore_index, ClassIndices(model.class_names), **options)

    @classmethod
    def check_target(cls, target: Tensor, class_names: Sequence[str], ignore_index: int) -> None:
        """Raise ValueError if the target is not class indices (H, W) of several classes."""
        if target.ndim != 2:
            raise ValueError(
                f"the data has masks of shape {tuple(target.shape)}, but task=semantic needs class indices (H, W). "
                f"Set task=multilabel for one mask per class."
            )
        check_several(class_names)

    def dummy_batch(self, shape: tuple[int, int, int, int]) -> Batch:
        """Return random images of a shape (B, C, H, W) with random class indices, on the task's device."""
        batch, _, height, width = shape
        classes = len(self.model.class_names)
        return {
            "image": torch.randint(0, 256, shape, dtype=torch.uint8, device=self.device),
            "mask": torch.randint(0, classes, (batch, height, width), dtype=torch.uint8, device=self.device),
        }
