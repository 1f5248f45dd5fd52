"""Steps between the logits of a model and its final prediction, in their order."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from finetune.inference.output import Output, Prediction


@runtime_checkable
class ScoreStep(Protocol):
    """A step that changes probabilities."""

    def refine(self, probabilities: Tensor, images: Tensor) -> Tensor:
        """Return the new probabilities.

        Args:
            probabilities: of the classes (B, K, H, W), float32 or more precise.
            images: (B, C, H, W), uint8, on the same device.
        """


@runtime_checkable
class LabelStep(Protocol):
    """A step that changes the prediction of one image."""

    def clean(self, prediction: Prediction) -> Prediction:
        """Return the new prediction: class indices (H, W), or masks (K, H, W) of 0 and 1."""


@dataclass(frozen=True)
class PostProcessing:
    """Steps by name, in their order; none by default.

    Raises:
        ValueError: a step on probabilities comes after one on predictions.
    """

    steps: Mapping[str, ScoreStep | LabelStep] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = list(self.steps)
        for before, name in pairwise(names):
            if isinstance(self.steps[name], ScoreStep) and not isinstance(self.steps[before], ScoreStep):
                raise ValueError(f"post=[{','.join(names)}]: {name} changes probabilities, so put it before {before}.")

    def refine(self, output: Output, logits: Tensor, images: Tensor) -> Tensor:
        """Return the logits (B, K, H, W) after the steps on probabilities; the same ones if there is none."""
        for step in self.steps.values():
            if isinstance(step, ScoreStep):
                logits = output.logits(step.refine(output.probabilities(logits), images))
        return logits

    def with_score_step(self, name: str, step: ScoreStep) -> "PostProcessing":
        """Return these steps and one more, which is the last one on probabilities."""
        scores = {name: each for name, each in self.steps.items() if isinstance(each, ScoreStep)}
        return PostProcessing({**scores, name: step, **self.steps})

    def clean(self, predictions: Tensor) -> Tensor:
        """Return predictions (B, ...), uint8, after the steps on predictions."""
        steps = [step for step in self.steps.values() if isinstance(step, LabelStep)]
        if not steps:
            return predictions
        cleaned = []
        for prediction in predictions.cpu().numpy():
            for step in steps:
                prediction = step.clean(prediction)
            cleaned.append(torch.from_numpy(prediction))
        return torch.stack(cleaned).to(predictions.device)
