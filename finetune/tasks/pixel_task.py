"""Tasks that classify every pixel: the model gives logits, and a loss compares them with masks."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from finetune.inference.finite import count_non_finite
from finetune.inference.output import Output
from finetune.inference.post import PostProcessing
from finetune.losses import Loss, Reduce, TargetFormat, no_reduction
from finetune.metrics.evaluator import PixelEvaluator
from finetune.metrics.measurement import ImageBatch
from finetune.models import Segmenter
from finetune.models.ensemble import mean_logits
from finetune.tasks.base import TuningTask

Batch = dict[str, Tensor]


class PixelTask(TuningTask):
    """A task with a loss of logits (B, K, H, W).

    Subclasses name the `target_format` that their loss must accept, and how targets look.

    Args:
        model: the network.
        loss: accepts the target format.
        ignore_index: label of the pixels to leave out.
        output: turns logits into predictions.
        options: further arguments of `TuningTask`.
    """

    target_format: ClassVar[TargetFormat]
    output_type: ClassVar[type[Output]]
    evaluator_type: ClassVar[type[PixelEvaluator]]
    model: Segmenter
    output: Output
    evaluator: PixelEvaluator

    def __init__(self, model: Segmenter, loss: Loss, ignore_index: int, output: Output, **options: Any) -> None:
        super().__init__(model, self.evaluator_type(model.class_names, ignore_index), output, **options)
        if not self.accepts(type(loss)):
            raise ValueError(
                f"{type(loss).__name__} takes targets as {' or '.join(loss.target_formats)}, but {type(self).__name__} "
                f"has {self.target_format}. Give another loss."
            )
        self.loss = loss
        self.ignore_index = ignore_index
        self.others: Sequence[Segmenter] = ()
        self.post = PostProcessing()  # of evaluations outside of a training

    def predict_with(self, others: Sequence[Segmenter]) -> None:
        """Average the logits of an evaluation with those of further models, from now on."""
        self.others = nn.ModuleList(others)  # type: ignore[assignment]  # a sequence, which moves with the task

    @classmethod
    def accepts(cls, loss: type[Loss]) -> bool:
        """Return whether a loss fits the task."""
        return cls.target_format in loss.target_formats

    def target(self, batch: Batch) -> Tensor:
        """Return the batch's target as the loss takes it."""
        return batch["mask"]

    def losses(self, batch: Batch, reduce: Reduce = no_reduction) -> tuple[Tensor, Tensor]:
        """Return the main loss and the weighted auxiliary loss (0 for heads without auxiliary outputs).

        Args:
            batch: `image` (B, C, H, W), uint8, and `mask`, of an integer type.
            reduce: adds up the sums of all devices.
        """
        target = self.target(batch)
        logits, *others = self.model(self.model.normalize(batch["image"]), auxiliary=True)
        auxiliary = [self.loss.auxiliary_weight * self.loss(scores, target, reduce) for scores in others]
        return self.loss(logits, target, reduce), sum(auxiliary, logits.new_zeros(()))

    def count_images(self, batch: Batch) -> Tensor:
        """Return the number of images with a pixel that is not ignored."""
        return (batch["mask"] != self.ignore_index).flatten(1).any(dim=1).sum()

    def evaluate(self, batch: list[Batch]) -> None:
        """Count a batch, whose images come in groups of equal size."""
        for group in batch:
            # without autocast: half precision would round differently in each batch, and scores with it
            with torch.autocast(self.device.type, enabled=False):
                logits = mean_logits((self.model, *self.others), group["image"])
            self.non_finite = self.non_finite + count_non_finite(logits)
            target = self.target(group)
            refined = self.post.refine(self.output, logits, group["image"])
            prediction = self.post.clean(self.output.decode(refined))
            self.evaluator.update(prediction, target)
            self._measure(group, refined, prediction, target)
            if not self.evaluates_loss:
                continue
            losses = []
            for image in range(len(logits)):  # one image at a time, so that the loss does not depend on the batch
                own = {key: values[image : image + 1] for key, values in group.items()}
                losses.append(self.loss(logits[image : image + 1], target[image : image + 1]))
                self.eval_loss.add(losses[-1], self.count_images(own))
            self.image_losses.append((group["index"], torch.stack(losses)))

    def _measure(self, group: Batch, logits: Tensor, prediction: Tensor, target: Tensor) -> None:
        if self.measurements:
            probabilities = self.output.probabilities(logits)
            batch = ImageBatch(group["index"], group["image"], probabilities, prediction, target)
            for measurement in self.measurements.values():
                measurement.update(batch)


def check_several(class_names: Sequence[str]) -> None:
    """Raise ValueError if there is one class only, which every pixel would have."""
    if len(class_names) < 2:
        raise ValueError(
            f"class indices of a single class, '{class_names[0]}': every pixel would have it. The background counts as "
            f"a class: data.classes=[background,{class_names[0]}]. One class without background is task=multilabel "
            f"with a table that has a column mask:{class_names[0]}."
        )
