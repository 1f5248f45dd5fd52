"""Predictions with exactly one class per pixel."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from finetune.inference.class_masks import check_thresholds
from finetune.inference.output import SMALLEST, Pixels, Prediction, Row, at_least_float32, save_mask
from finetune.plots import overlay, palette, preview


class ClassIndices:
    """Class indices (H, W): the class with the highest logit; see `Output`.

    Args:
        class_names: of the K classes.
        threshold: probability from which a pixel has the second of two classes, 0..1; None takes the likelier one.

    Raises:
        ValueError: a threshold that is not a number from 0 to 1, or there are not two classes.
    """

    def __init__(self, class_names: Sequence[str], threshold: float | None = None) -> None:
        self.class_names = tuple(class_names)
        self.colors = palette(len(self.class_names))
        self.threshold = None if threshold is None else check_thresholds(threshold, 1)[0]
        if threshold is not None and len(self.class_names) != 2:
            raise ValueError(
                f"threshold={threshold}: of {len(self.class_names)} classes, a pixel has the likeliest one. Leave it "
                f"out; it is for models of two classes, and for task=multilabel."
            )

    def options(self) -> dict[str, Any]:
        """Return no options: a threshold is chosen for each prediction and is not stored with the model."""
        return {}

    def decode(self, logits: Tensor) -> Tensor:
        """Return class indices (B, H, W), uint8, of logits (B, K, H, W)."""
        if self.threshold is not None:
            return (self.probabilities(logits)[:, 1] >= self.threshold).to(torch.uint8)
        return logits.max(dim=1).indices.to(torch.uint8)  # argmax takes twice as long in channels-last format

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the softmax over the classes of logits (B, K, H, W)."""
        return at_least_float32(logits).softmax(dim=1)

    def logits(self, probabilities: Tensor) -> Tensor:
        """Return the logarithm of probabilities (B, K, H, W)."""
        return probabilities.clamp(min=SMALLEST).log()

    def files(self, path: Path) -> list[Path]:
        """Return the one file of an image."""
        return [path]

    def planes(self, prediction: Prediction) -> list[Prediction]:
        """Return the class indices (H, W)."""
        return [prediction]

    def save(self, prediction: Prediction, path: Path) -> list[Path]:
        """Write class indices (H, W) as an 8-bit PNG or TIFF whose palette shows the classes' colors."""
        mask = Image.fromarray(prediction)
        mask.putpalette([channel for color in self.colors for channel in color])
        save_mask(mask, path)
        return [path]

    def load(self, path: Path) -> Prediction:
        """Return the class indices (H, W) that `save` wrote."""
        with Image.open(path) as mask:
            return np.array(mask)

    def overlay(self, image: Pixels, prediction: Prediction, alpha: float = 0.5) -> Pixels:
        """Return the image (H, W, 3) with the classes' colors over it."""
        return overlay(image, prediction, self.colors, alpha)

    def preview(
        self, rows: Sequence[Row], ignore_index: int, uncertainty: Sequence[NDArray[np.floating]] = ()
    ) -> Image.Image:
        """Return a page of images with their targets and predictions (H, W)."""
        return preview(rows, self.class_names, self.colors, ignore_index, uncertainty=uncertainty)
