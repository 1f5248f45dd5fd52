"""Multi-label segmentation: every pixel has any number of classes, or none."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from finetune.inference import ClassMasks
from finetune.losses import BCEDice, Loss, TargetFormat
from finetune.metrics.multilabel import MultilabelEvaluator
from finetune.models import Segmenter
from finetune.tasks.pixel_task import Batch, PixelTask, check_several


class MultilabelTask(PixelTask):
    """A sigmoid per class, trained on masks (K, H, W) and scored by the outcomes of each class.

    Data with class indices (H, W) is accepted too: each class becomes the mask of its pixels, and an ignored pixel is
    ignored for all classes.

    Args:
        model: the network.
        loss: of masks; None for binary cross-entropy plus Dice.
        ignore_index: label of the pixels to leave out, 2 or more.
        thresholds: probability above which a pixel has a class, one for all classes or one per class, 0..1.
        options: further arguments of `TuningTask`.

    Raises:
        ValueError: thresholds or an ignore_index that do not fit.
    """

    name: ClassVar[str] = "multilabel"
    target_format: ClassVar[TargetFormat] = "masks"
    evaluator_type = MultilabelEvaluator
    output_type = ClassMasks

    def __init__(
        self,
        model: Segmenter,
        loss: Loss | None = None,
        ignore_index: int = 255,
        thresholds: float | Sequence[float] = 0.5,
        **options: Any,
    ) -> None:
        check_ignore_index(ignore_index)
        loss = loss or BCEDice(ignore_index=ignore_index)
        super().__init__(model, loss, ignore_index, ClassMasks(model.class_names, thresholds), **options)

    @classmethod
    def check_target(cls, target: Tensor, class_names: Sequence[str], ignore_index: int) -> None:
        """Raise ValueError if the target is neither masks (K, H, W) nor class indices (H, W)."""
        check_ignore_index(ignore_index)
        if target.ndim != 2 and (target.ndim != 3 or len(target) != len(class_names)):
            raise ValueError(
                f"the data has masks of shape {tuple(target.shape)}, but task=multilabel with {len(class_names)} "
                f"classes needs ({len(class_names)}, H, W), or class indices (H, W). Check data.classes."
            )
        if target.ndim == 2:
            check_several(class_names)

    def target(self, batch: Batch) -> Tensor:
        """Return the batch's masks (B, K, H, W)."""
        mask = batch["mask"]
        return mask if mask.ndim == 4 else masks_of_indices(mask, len(self.model.class_names), self.ignore_index)

    def dummy_batch(self, shape: tuple[int, int, int, int]) -> Batch:
        """Return random images of a shape (B, C, H, W) with random masks, on the task's device."""
        batch, _, height, width = shape
        masks = (batch, len(self.model.class_names), height, width)
        return {
            "image": torch.randint(0, 256, shape, dtype=torch.uint8, device=self.device),
            "mask": torch.randint(0, 2, masks, dtype=torch.uint8, device=self.device),
        }


def check_ignore_index(ignore_index: int) -> None:
    """Raise ValueError if the label to ignore is one that masks use."""
    if ignore_index in (0, 1):
        raise ValueError(f"ignore_index={ignore_index}: masks use 0 and 1. Set another label, such as 255.")


def masks_of_indices(indices: Tensor, classes: int, ignore_index: int) -> Tensor:
    """Return masks (B, K, H, W) of class indices (B, H, W), in their type; ignored pixels are ignored in all masks.

    >>> masks_of_indices(torch.tensor([[[0, 1, 255]]]), 2, 255).tolist()
    [[[[1, 0, 255]], [[0, 1, 255]]]]
    """
    labels = torch.arange(classes, device=indices.device).view(1, -1, 1, 1)
    masks = (indices[:, None] == labels).to(indices.dtype)
    return masks.masked_fill((indices == ignore_index)[:, None], ignore_index)
