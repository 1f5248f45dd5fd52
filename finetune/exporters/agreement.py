"""How well the outputs of exported files agree with those of the model."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from finetune.metrics.evaluator import headline
from finetune.tasks import PixelTask

Outputs = Mapping[str, Tensor]  # by name; those called `classes` are labels, compared by equality


@dataclass(frozen=True)
class Limits:
    """How far exported files may differ from the model.

    Attributes:
        difference: of numbers, as a fraction of the largest absolute number, or of 1 if that is larger.
        labels: fraction of the labels that differ.
        score: loss of the headline score, such as the IoU, 0..1.
    """

    difference: float = 0.0
    labels: float = 0.0
    score: float = 0.0


class Agreement:
    """The differences between the outputs of a model and of its files, over any number of images.

    Args:
        task: reads labels from outputs and scores them; None compares the outputs as they are.
        is_random: whether the images are random.

    Attributes:
        images: number of images with labels.
        difference: largest absolute difference of numbers.
        is_mismatched: whether an output is missing or has another shape.
    """

    def __init__(self, task: PixelTask | None = None, is_random: bool = False) -> None:
        self.task = task
        self.is_random = is_random
        self.images, self.difference, self.is_mismatched = 0, 0.0, False
        self._largest, self._equal, self._labels, self._scored = 0.0, 0, 0, False
        self._evaluators = [] if task is None else [copy.deepcopy(task.evaluator) for _ in range(2)]

    @property
    def equal_labels(self) -> float:
        """Fraction of the labels that are equal; 1 if there are none."""
        return self._equal / self._labels if self._labels else 1.0

    def add(self, ours: Outputs, theirs: Outputs, target: Tensor | None = None) -> None:
        """Add outputs of the same images, and score both if the task's target is given."""
        if ours.keys() != theirs.keys() or any(ours[name].shape != theirs[name].shape for name in ours):
            self.is_mismatched = True
            return
        for name in ours.keys() - {"classes"}:
            if ours[name].numel():
                difference = float((ours[name].double() - theirs[name]).abs().max())
                self.difference = difference if math.isnan(difference) else max(self.difference, difference)
                self._largest = max(self._largest, float(ours[name].abs().max()))
        labels = [found for outputs in (ours, theirs) if (found := self._read_labels(outputs)) is not None]
        if labels:
            self._equal += int((labels[0] == labels[1]).sum())
            self._labels += labels[0].numel()
            self.images += len(labels[0])
        if target is not None and labels:
            self._scored = True
            for evaluator, predicted in zip(self._evaluators, labels, strict=True):
                evaluator.update(predicted, target)

    def _read_labels(self, outputs: Outputs) -> Tensor | None:
        if "classes" in outputs or self.task is None:
            return outputs.get("classes")
        probabilities = outputs.get("probabilities")
        logits = outputs.get("logits") if probabilities is None else probabilities.logit()
        return None if logits is None else self.task.output.decode(logits)

    def scores(self) -> tuple[str, float, float] | None:
        """Return the name of the headline score, and its values for the model and the files; None without targets."""
        if not self._scored:
            return None
        ours, theirs = (evaluator.compute(evaluator.counts()) for evaluator in self._evaluators)
        name = headline(ours)[0]
        return name, ours[name], theirs[name]

    def problems(self, limits: Limits) -> list[str]:
        """Return a phrase for each limit that is exceeded."""
        allowed = limits.difference * max(1.0, self._largest)
        name, ours, theirs = self.scores() or ("", math.nan, math.nan)
        checks = [  # NaN is refused, except for a score of the model
            (not self.is_mismatched, "outputs of other names or shapes"),
            (self.difference <= allowed, f"outputs that differ by up to {self.difference:.3g} (limit {allowed:.3g})"),
            (
                self.equal_labels >= 1 - limits.labels,
                f"other labels for {1 - self.equal_labels:.3%} of the pixels (limit {limits.labels:.3%})",
            ),
            (
                math.isnan(ours) or ours - theirs <= limits.score,
                f"{name} {theirs:.4f} instead of {ours:.4f} (limit of the loss {limits.score:.4f})",
            ),
        ]
        return [problem for is_fine, problem in checks if not is_fine]

    def __str__(self) -> str:
        parts = [f"outputs differ by at most {self.difference:.3g}"] if self._largest else []
        parts += [f"{self.equal_labels:.3%} of the labels are equal"] if self._labels else []
        name, ours, theirs = self.scores() or ("", 0, 0)
        return ", ".join([*parts, *([f"{name} {theirs:.4f}, that of the model is {ours:.4f}"] if name else [])])
