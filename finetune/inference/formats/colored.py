"""Predictions to look at: their colors alone, over the image, and along the borders only."""

from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from finetune.inference.files import is_video
from finetune.inference.formats.format import Predicted
from finetune.inference.output import Output, Pixels, Prediction


class Overlays:
    """`overlays/`: the image with the colors of the prediction over it; see `ImageFormat`."""

    folder: ClassVar[str] = "overlays"
    reads_probabilities: ClassVar[bool] = False

    def __init__(self, output: Output) -> None:
        self.output = output

    def files(self, name: Path) -> list[Path]:
        """Return the one PNG of an image, or the video of one."""
        return [self.folder / (name if is_video(name) else name.with_suffix(".png"))]

    def save(self, predicted: Predicted, name: Path, folder: Path) -> None:
        """Draw the prediction."""
        Image.fromarray(self.frames(predicted)[0]).save(folder / self.files(name)[0])

    def frames(self, predicted: Predicted) -> list[Pixels]:
        """Return the one picture (H, W, 3)."""
        return [self.draw(_rgb(predicted.image), predicted.prediction)]

    def draw(self, image: Pixels, prediction: Prediction) -> Pixels:
        """Return a picture (H, W, 3) of an image (H, W, 3) and its prediction."""
        return self.output.overlay(image, prediction)


class Color(Overlays):
    """`color/`: the colors of the prediction; pixels without a class are black."""

    folder = "color"

    def draw(self, image: Pixels, prediction: Prediction) -> Pixels:
        """Return the colors (H, W, 3)."""
        return self.output.overlay(np.zeros_like(image), prediction, alpha=1)


class Contours(Overlays):
    """`contours/`: the image with lines of two pixels where the prediction changes, in the colors of both sides."""

    folder = "contours"

    def draw(self, image: Pixels, prediction: Prediction) -> Pixels:
        """Return the image (H, W, 3) with lines."""
        return np.where(borders(prediction)[..., None], self.output.overlay(image, prediction, alpha=1), image)


def borders(prediction: Prediction) -> NDArray[np.bool_]:
    """Return the pixels (H, W) with a neighbor over one of their four sides that has other classes.

    >>> borders(np.array([[0, 0, 1]], dtype=np.uint8)).tolist()
    [[False, True, True]]
    """
    channels = prediction.reshape(-1, *prediction.shape[-2:])
    found = np.zeros(channels.shape[1:], dtype=np.bool_)
    down, right = (np.diff(channels, axis=axis).any(axis=0) for axis in (1, 2))
    found[1:] |= down
    found[:-1] |= down
    found[:, 1:] |= right
    found[:, :-1] |= right
    return found


def _rgb(image: Tensor) -> Pixels:
    """Return (C, H, W) as (H, W, 3), made of the first three channels, or of the first if there are fewer."""
    channels = image[:3] if image.shape[0] >= 3 else image[:1].expand(3, -1, -1)
    return channels.permute(1, 2, 0).numpy()
