"""How well the outputs of exported files agree with those of the model."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from finetune.metrics.evaluator import headline, summary
from finetune.tasks import PixelTask

Outputs = Mapping[str, Tensor]  # by name, such as `logits`
LABELS = "classes"  # the name of the output that holds labels, which are compared by equality


@dataclass(frozen=True)
class Limits:
    """How far exported files may differ from the model.

    Attributes:
        difference: largest difference of numbers, as a fraction of the largest absolute number, or of 1 if that is
            larger.
        labels: largest fraction of labels that differ.
        score: largest loss of the headline score, such as the IoU, 0..1.
    """

    difference: float = 0.0
    labels: float = 0.0
    score: float = 0.0


class Agreement:
    """The differences between two sets of outputs, over any number of images.

    Args:
        task: reads labels from outputs and scores them; None compares the outputs as they are.

    Attributes:
        images: number of images.
        difference: largest absolute difference of numbers; infinity if an output or its shape differs.
    """

    def __init__(self, task: PixelTask | None = None) -> None:
        self.task = task
        self.images, self.difference = 0, 0.0
        self._largest, self._equal, self._labels, self._scored = 0.0, 0, 0, 0
        self._evaluators = [] if task is None else [copy.deepcopy(task.evaluator) for _ in range(2)]
        for evaluator in self._evaluators:
            evaluator.reset()

    @property
    def equal_labels(self) -> float:
        """Fraction of the labels that are equal; 1 if there are none."""
        return self._equal / self._labels if self._labels else 1.0

    def add(self, ours: Outputs, theirs: Outputs, target: Tensor | None = None) -> None:
        """Add outputs of the same images.

        Args:
            ours: of the model.
            theirs: of the files.
            target: of the task, to score both; None if there is none.
        """
        if ours.keys() != theirs.keys() or any(ours[name].shape != theirs[name].shape for name in ours):
            self.difference = math.inf
            return
        for name in ours.keys() - {LABELS}:
            if ours[name].numel():
                difference = float((ours[name].double() - theirs[name]).abs().max())
                self.difference = difference if math.isnan(difference) else max(self.difference, difference)
                self._largest = max(self._largest, float(ours[name].abs().max()))
        labels = [self._read_labels(outputs) for outputs in (ours, theirs)]
        if labels[0] is not None and labels[1] is not None:
            self._equal += int((labels[0] == labels[1]).sum())
            self._labels += labels[0].numel()
            self.images += len(labels[0])
        if target is not None:
            self._scored += len(target)
            for evaluator, predicted in zip(self._evaluators, labels, strict=True):
                evaluator.update(predicted, target)

    def _read_labels(self, outputs: Outputs) -> Tensor | None:
        if LABELS in outputs or self.task is None:
            return outputs.get(LABELS)
        if "logits" in outputs:
            return self.task.output.decode(outputs["logits"])
        return self.task.output.decode(outputs["probabilities"].logit()) if "probabilities" in outputs else None

    def scores(self) -> tuple[str, float, float] | None:
        """Return the name of the headline score, and its values for the model and the files; None without targets."""
        if not self._scored:
            return None
        ours, theirs = (summary(evaluator.compute(evaluator.counts())) for evaluator in self._evaluators)
        name = headline(ours)[0]
        return name, ours[name], theirs[name]

    def problems(self, limits: Limits) -> list[str]:
        """Return a line for each limit that is exceeded."""
        found = []
        allowed = limits.difference * max(1.0, self._largest)
        if not self.difference <= allowed:  # also refuses NaN
            found.append(
                f"outputs that differ from the model's by up to {self.difference:.3g}; at most {allowed:.3g} is "
                f"accepted"
            )
        if not self.equal_labels >= 1 - limits.labels:
            found.append(
                f"{1 - self.equal_labels:.3%} of the labels differently; at most {limits.labels:.3%} is accepted"
            )
        name, ours, theirs = self.scores() or ("", math.nan, math.nan)
        if not (math.isnan(ours) or ours - theirs <= limits.score):
            found.append(
                f"predictions of {name} {theirs:.4f}, where the model has {ours:.4f}; a loss of at most "
                f"{limits.score:.4f} is accepted"
            )
        return found

    def __str__(self) -> str:
        parts = [f"outputs differ by at most {self.difference:.3g}"] if self._largest else []
        parts += [f"{self.equal_labels:.3%} of the labels are equal"] if self._labels else []
        if (scores := self.scores()) is not None:
            parts.append(f"{scores[0]} {scores[2]:.4f}, that of the model is {scores[1]:.4f}")
        return ", ".join(parts) or "all values are equal"
