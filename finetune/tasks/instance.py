"""Instance segmentation: objects with a class, a box and a mask each."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from finetune.data.objects import LEAST_PIXELS
from finetune.engine.ddp import gather_rows
from finetune.inference.instances import ObjectOutput
from finetune.instances import Objects, Planes, from_planes
from finetune.losses import HeadLoss, Loss, Reduce, no_reduction
from finetune.metrics.instances import ROWS, InstanceEvaluator
from finetune.models import InstanceSegmenter
from finetune.tasks.base import TuningTask

Batch = dict[str, Tensor]


class InstanceTask(TuningTask):
    """A head's own losses, on targets that are planes of objects, scored by average precision.

    The loss of several devices is the mean over their images, but each head normalizes its terms by its own device's
    objects, so a training on two devices is not exactly one on a single device. Scores are.

    Args:
        model: the network.
        loss: weights of the head's terms; None for 1 each.
        ignore_index: label of the pixels to leave out; the planes have left them out.
        min_score: confidence from which an object is counted, drawn and written, 0 to 1.
        options: further arguments of `TuningTask`.
    """

    name: ClassVar[str] = "instance"
    evaluator_type = InstanceEvaluator
    output_type = ObjectOutput
    model_type = InstanceSegmenter
    takes_objects = True
    model: InstanceSegmenter
    evaluator: InstanceEvaluator
    output: ObjectOutput

    def __init__(
        self,
        model: InstanceSegmenter,
        loss: HeadLoss | None = None,
        ignore_index: int = 255,
        min_score: float = 0.5,
        **options: Any,
    ) -> None:
        output = ObjectOutput(model.class_names, min_score)
        super().__init__(model, InstanceEvaluator(model.class_names, ignore_index, min_score), output, **options)
        self.loss = loss or HeadLoss()
        self.evaluates_loss = False  # in evaluation mode, heads return objects only

    @classmethod
    def accepts(cls, loss: type[Loss]) -> bool:
        """Return whether a loss sums the terms of a head."""
        return "objects" in loss.target_formats

    @classmethod
    def check_target(cls, target: Tensor, class_names: Sequence[str], ignore_index: int) -> None:
        """Raise ValueError if a target is not planes of objects (2L, H, W)."""
        if target.ndim != 3 or len(target) % 2:
            raise ValueError(
                f"a target of shape {tuple(target.shape)}: task=instance needs planes of objects (2L, H, W)."
            )

    def losses(self, batch: Batch, reduce: Reduce = no_reduction) -> tuple[Tensor, Tensor]:
        """Return the weighted sum of the head's terms, and 0.

        Args:
            batch: `image` (B, C, H, W), uint8, and `mask` (B, 2L, H, W), planes of objects.
            reduce: adds up the sums of all devices.
        """
        targets = [from_planes(planes, LEAST_PIXELS) for planes in batch["mask"]]
        own = self.loss(self.model.losses(self.model.normalize(batch["image"]), targets))
        total, images = reduce(torch.stack([own * len(targets), own.new_tensor(float(len(targets)))]))
        return total / images, own.new_zeros(())

    def count_images(self, batch: Batch) -> Tensor:
        """Return the number of images: those without objects count, too."""
        return torch.tensor(len(batch["image"]), device=self.device)

    def evaluate(self, batch: list[Batch]) -> None:
        """Count a batch, whose images come in groups of equal size."""
        for group in batch:
            # without autocast: half precision would round differently in each batch, and scores with it
            with torch.autocast(self.device.type, enabled=False):
                found, is_finite = self.detect(group["image"])
            self.non_finite = self.non_finite + (~is_finite).sum()
            # what a tile has left of an object may be a speck, which does not count
            true = [from_planes(planes, LEAST_PIXELS) for planes in group["mask"]]
            self.evaluator.update(found, true, group["index"])

    def detect(self, images: Tensor) -> tuple[list[Objects], Tensor]:
        """Return the objects of images (B, C, H, W), uint8, and whether their feature maps are finite (B,), bool."""
        maps = self.model.maps(self.model.normalize(images))
        is_finite = torch.stack([feature.isfinite().flatten(1).all(1) for feature in maps]).all(0)
        return self.model.head.detect(maps, (images.shape[-2], images.shape[-1])), is_finite

    @torch.inference_mode()
    def find(self, image: Tensor) -> Objects:
        """Return the objects of an image (C, H, W), uint8, that are shown, on the CPU."""
        (found,), _ = self.detect(image[None].to(self.device))
        return self.output.shown(found)

    def sum_counts(self) -> dict[str, Tensor]:
        """Return the evaluator's counts of all ranks, on the CPU: sums, and rows one after the other. Collective."""
        counts = self.evaluator.counts()
        rows = {name: gather_rows(self.trainer, counts.pop(name).to(self.root_device)).cpu() for name in ROWS}
        self.total_counts = {**self.sum_over_ranks(counts), **rows}
        return self.total_counts

    def dummy_batch(self, shape: tuple[int, int, int, int]) -> Batch:
        """Return random images of a shape (B, C, H, W) with an object in each quarter, on the task's device."""
        batch, _, height, width = shape
        planes = Planes(height, width)
        for quarter in range(4):
            mask = torch.zeros(height, width, dtype=torch.bool)
            top, left = quarter // 2 * height // 2, quarter % 2 * width // 2
            mask[top : top + max(1, height // 3), left : left + max(1, width // 3)] = True
            planes.add(mask, quarter % len(self.model.class_names))
        return {
            "image": torch.randint(0, 256, shape, dtype=torch.uint8, device=self.device),
            "mask": planes.finish().expand(batch, -1, -1, -1).to(self.device),
        }
