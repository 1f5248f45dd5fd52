"""The interface of an output: how logits become predictions, and how predictions are written and shown."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from finetune.plots.colors import Color

Prediction = NDArray[np.uint8]
Pixels = NDArray[np.uint8]
Row = tuple[Tensor, Tensor, Tensor]

SMALLEST = 1e-6  # probability that is told from 0, so that logits stay finite


class TaskOutput(Protocol):
    """What every task needs of its output: the options with which a saved model predicts.

    Attributes:
        class_names: of the classes.
    """

    class_names: tuple[str, ...]

    def __init__(self, class_names: Sequence[str]) -> None:
        """Take the names of the classes."""

    def options(self) -> dict[str, Any]:
        """Return the constructor's options as plain data, for `model/config.json`."""


class Output(TaskOutput, Protocol):
    """How the logits of a model are read. The constructor takes the names of the K classes, then options by name."""

    @property
    def colors(self) -> Sequence[Color] | None:
        """Color of each value in the files; None if they are gray."""

    def decode(self, logits: Tensor) -> Tensor:
        """Return the predictions, uint8, of logits (B, K, H, W); the first dimension is the image."""

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probabilities of the classes (B, K, H, W), float32 or more precise, of logits of that shape."""

    def logits(self, probabilities: Tensor) -> Tensor:
        """Return logits that have these probabilities, up to `SMALLEST`."""

    def files(self, path: Path) -> list[Path]:
        """Return the files that `save` writes for an image.

        Args:
            path: a PNG or TIFF file, named after the image.
        """

    def planes(self, prediction: Prediction) -> Sequence[Prediction]:
        """Return the pixels (H, W) of each of the files; of a part of an image, they are that part of them."""

    def save(self, prediction: Prediction, path: Path) -> list[Path]:
        """Write the prediction of one image, and return its files, as `files` gives them."""

    def load(self, path: Path) -> Prediction:
        """Return the prediction that `save` wrote to a path."""

    def overlay(self, image: Pixels, prediction: Prediction, alpha: float = 0.5) -> Pixels:
        """Return the image (H, W, 3) with the prediction's colors over it, of an opacity from 0 to 1."""

    def preview(
        self, rows: Sequence[Row], ignore_index: int, uncertainty: Sequence[NDArray[np.floating]] = ()
    ) -> Image.Image:
        """Return a page of images with their targets and predictions.

        Args:
            rows: image (C, H, W), uint8, target and prediction each.
            ignore_index: label of the pixels to leave out.
            uncertainty: of the pixels (H, W) of each image, 0..1, to be shown too; empty for none.
        """


def at_least_float32(logits: Tensor) -> Tensor:
    """Return logits in a type in which probabilities can be told apart."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def save_mask(mask: Image.Image, path: Path) -> None:
    """Write a mask as PNG or compressed TIFF, as the path says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask.save(path, **({"compression": "tiff_deflate"} if path.suffix == ".tif" else {}))
