"""Predictions with any number of classes per pixel."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from finetune.inference.output import SMALLEST, Pixels, Prediction, Row, at_least_float32, save_mask
from finetune.plots import overlay, preview
from finetune.plots.label_sets import NONE, label_sets


class ClassMasks:
    """Masks (K, H, W) of 0 and 1: the classes whose sigmoid exceeds their threshold; see `Output`.

    Args:
        class_names: of the K classes.
        thresholds: probability above which a pixel has a class, one for all classes or one per class, 0..1.

    Raises:
        ValueError: thresholds that are not numbers from 0 to 1, or not one per class.
    """

    colors = None

    def __init__(self, class_names: Sequence[str], thresholds: float | Sequence[float] = 0.5) -> None:
        self.class_names = tuple(class_names)
        self.thresholds = check_thresholds(thresholds, len(self.class_names))

    def options(self) -> dict[str, Any]:
        """Return the threshold of each class."""
        return {"thresholds": list(self.thresholds)}

    def decode(self, logits: Tensor) -> Tensor:
        """Return masks (B, K, H, W), uint8, of logits (B, K, H, W)."""
        p = self.probabilities(logits)
        return (p > p.new_tensor(self.thresholds).view(-1, 1, 1)).to(torch.uint8)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the sigmoid of logits (B, K, H, W)."""
        return at_least_float32(logits).sigmoid()

    def logits(self, probabilities: Tensor) -> Tensor:
        """Return the inverse of the sigmoid of probabilities (B, K, H, W)."""
        return probabilities.logit(eps=SMALLEST)

    def files(self, path: Path) -> list[Path]:
        """Return `<name>_<class>.png`, or `.tif`, for each class."""
        return class_files(path, self.class_names)

    def planes(self, prediction: Prediction) -> list[Prediction]:
        """Return the masks (K, H, W) as pixels of 0 and 255."""
        return list(prediction * 255)

    def save(self, prediction: Prediction, path: Path) -> list[Path]:
        """Write each mask of (K, H, W) as an 8-bit PNG or TIFF of 0 and 255."""
        for plane, file in zip(self.planes(prediction), self.files(path), strict=True):
            save_mask(Image.fromarray(plane), file)
        return self.files(path)

    def load(self, path: Path) -> Prediction:
        """Return the masks (K, H, W) that `save` wrote."""
        masks: Prediction = np.stack([np.asarray(Image.open(file)) for file in self.files(path)])
        return masks // 255

    def overlay(self, image: Pixels, prediction: Prediction, alpha: float = 0.5) -> Pixels:
        """Return the image (H, W, 3) with a color for each set of classes; pixels without a class stay unchanged."""
        (labels,), _, colors = label_sets([prediction], self.class_names)
        return overlay(image, labels, colors, alpha, ignore_index=NONE)

    def preview(
        self, rows: Sequence[Row], ignore_index: int, uncertainty: Sequence[NDArray[np.floating]] = ()
    ) -> Image.Image:
        """Return a page of images with their targets and predictions (K, H, W), one color for each set of classes."""
        masks = [mask for _, *both in rows for mask in both]
        labels, names, colors = label_sets(masks, self.class_names, ignore_index)
        images = [image for image, *_ in rows]
        pages = list(zip(images, labels[::2], labels[1::2], strict=True))
        return preview(pages, names, colors, ignore_index=-1, uncertainty=uncertainty)


def check_thresholds(thresholds: Any, classes: int) -> tuple[float, ...]:
    """Return one threshold per class.

    Raises:
        ValueError: values that are not numbers from 0 to 1, or not one per class.

    >>> check_thresholds(0.5, 2)
    (0.5, 0.5)
    """
    values = list(thresholds) if isinstance(thresholds, list | tuple) else [thresholds]
    if any(isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1 for value in values):
        raise ValueError(f"thresholds={thresholds}: expected a number from 0 to 1, or a list with one per class.")
    if not isinstance(thresholds, list | tuple):
        values *= classes
    if len(values) != classes:
        raise ValueError(
            f"thresholds={thresholds}: {len(values)} thresholds for {classes} classes. Give one per class, or one "
            f"number for all."
        )
    return tuple(map(float, values))


def class_files(path: Path, class_names: Sequence[str]) -> list[Path]:
    """Return `<name>_<class>` in the place of a file, for each class."""
    return [path.with_name(f"{path.stem}_{suffix}{path.suffix}") for suffix in file_suffixes(class_names)]


def file_suffixes(class_names: Sequence[str]) -> list[str]:
    """Return the class names as parts of file names, each different, also where case is ignored.

    >>> file_suffixes(["sky", "road/path", "road path", "Sky"])
    ['sky', 'road-path', 'road-path-2', 'Sky-3']
    >>> file_suffixes(["a b", "a-b-2", "a-b"])
    ['a-b', 'a-b-2', 'a-b-3']
    """
    suffixes: list[str] = []
    for index, name in enumerate(class_names):
        plain = suffix = re.sub(r"[^\w.-]+", "-", name)
        taken, number = {other.lower() for other in suffixes}, index
        while suffix.lower() in taken:
            suffix, number = f"{plain}-{number}", number + 1
        suffixes.append(suffix)
    return suffixes
