"""Color jitter as one matrix."""

from dataclasses import dataclass
from math import cos, pi, sin

import cv2
import numpy as np
from torch import Tensor

from finetune.data.augmentation.operations import look_up
from finetune.data.opencv import Array, apply, channel_means

# NTSC weights: row 0 is luma (gray), rows 1 and 2 the chroma plane that hue rotates and saturation scales
YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
RGB = np.linalg.inv(YIQ)


@dataclass(frozen=True)
class ColorJitter:
    """A change of the colors of one image.

    Attributes:
        brightness: factor on all values.
        contrast: factor on the distance to the image's mean gray.
        saturation: factor on the distance to a pixel's own gray; RGB only.
        hue: rotation in the chroma plane, in full circles, from red to yellow; RGB only.
    """

    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0

    def __call__(self, image: Tensor) -> Tensor:
        """Change the colors of an image.

        Args:
            image: uint8 (C, H, W). Three channels mean RGB; other images get brightness and contrast only.

        Returns:
            uint8 (C, H, W).
        """
        means, rgb = channel_means(image), len(image) == 3
        gray = float(YIQ[0] @ means) if rgb else float(np.mean(means))
        gain = self.brightness * self.contrast
        offset = (1 - self.contrast) * self.brightness * gray
        if not rgb or (self.saturation == 1 and self.hue == 0):
            return look_up(image, gain * np.arange(256) + offset)
        matrix = np.concatenate([gain * self._chroma(), np.full((3, 1), offset)], axis=1)
        return apply(lambda pixels: cv2.transform(pixels, matrix), image)

    def _chroma(self) -> Array:
        """Return the RGB matrix (3, 3) of saturation and hue; it keeps the gray of every pixel."""
        angle = 2 * pi * self.hue
        rotation = np.eye(3)
        rotation[1:, 1:] = self.saturation * np.array([[cos(angle), sin(angle)], [-sin(angle), cos(angle)]])
        chroma: Array = RGB @ rotation @ YIQ
        return chroma
