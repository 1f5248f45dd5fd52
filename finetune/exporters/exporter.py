"""What every export format does: write files, and compute with them again to compare with the model."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from finetune.checkpoints.saved_model import SavedModel


class ExportError(RuntimeError):
    """An exported model that does not compute what the original does."""


class Exporter(Protocol):
    """A format that a model can be written in.

    Attributes:
        tolerance: largest difference between the outputs of the original and of the files, as an absolute value.
    """

    tolerance: float

    def write(self, saved: SavedModel, folder: Path) -> list[Path]:
        """Write the model into an existing, empty folder and return the files."""

    def expected(self, saved: SavedModel, images: Tensor) -> dict[str, Tensor]:
        """Return the outputs of the original model for uint8 images (B, C, H, W), as far as the format keeps them."""

    def computed(self, folder: Path, images: Tensor) -> dict[str, Tensor]:
        """Return the same outputs, computed from nothing but the files."""

    def usage(self, folder: Path) -> str:
        """Return the line of code that loads the files."""


def export_model(exporter: Exporter, saved: SavedModel, folder: Path) -> tuple[list[Path], float]:
    """Write a model in a format and compare its outputs with those of the original on random images.

    Returns:
        The files, and the largest absolute difference of the outputs.

    Raises:
        ExportError: the difference exceeds the exporter's tolerance, or an output is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = exporter.write(saved, folder)
    images = random_images(saved)
    with torch.inference_mode():
        difference = largest_difference(exporter.expected(saved, images), exporter.computed(folder, images))
    if not difference <= exporter.tolerance:  # also refuses NaN
        raise ExportError(
            f"the files in '{folder}' compute outputs that differ from the model's by up to {difference:.3g}; at most "
            f"{exporter.tolerance:.3g} is accepted. Do not use them; report this with the names of backbone and head."
        )
    return files, difference


def largest_difference(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    """Return the largest absolute difference of tensors of the same names; infinity if a name or shape differs.

    >>> largest_difference({"a": torch.zeros(2)}, {"a": torch.tensor([0.0, 3.0])})
    3.0
    """
    if ours.keys() != theirs.keys() or any(ours[name].shape != theirs[name].shape for name in ours):
        return math.inf
    return max(
        (float((ours[name].double() - theirs[name]).abs().max()) for name in ours if ours[name].numel()), default=0
    )


def random_images(saved: SavedModel) -> Tensor:
    """Return uint8 images (2, C, H, W) of the smallest size that the backbone takes, the same on every call."""
    shape = saved.model.backbone.dummy_input().shape
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, *shape[1:]), dtype=torch.uint8, generator=generator)
