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
        if len(image) != 3 or (self.saturation == 1 and self.hue == 0):
            gain, offset = self._line(image)
            return look_up(image, gain * np.arange(256) + offset)
        matrix = self.matrix(image)
        return apply(lambda pixels: cv2.transform(pixels, matrix), image)

    def matrix(self, image: Tensor) -> Array:
        """Return the change of an image (C, H, W) uint8 as factors and an offset for each channel (C, C + 1)."""
        gain, offset = self._line(image)
        channels = len(image)
        factors = gain * (self._chroma() if channels == 3 else np.eye(channels))
        return np.concatenate([factors, np.full((channels, 1), offset)], axis=1)

    def _line(self, image: Tensor) -> tuple[float, float]:
        """Return the factor and the offset of brightness and contrast."""
        means = channel_means(image)
        gray = float(YIQ[0] @ means) if len(image) == 3 else float(np.mean(means))
        return self.brightness * self.contrast, (1 - self.contrast) * self.brightness * gray

    def _chroma(self) -> Array:
        """Return the RGB matrix (3, 3) of saturation and hue; it keeps the gray of every pixel."""
        angle = 2 * pi * self.hue
        rotation = np.eye(3)
        rotation[1:, 1:] = self.saturation * np.array([[cos(angle), sin(angle)], [-sin(angle), cos(angle)]])
        chroma: Array = RGB @ rotation @ YIQ
        return chroma
