"""Color jitter as one matrix."""

from dataclasses import dataclass
from math import cos, pi, sin

import torch
from torch import Tensor

# NTSC weights: row 0 is luma (gray), rows 1 and 2 the chroma plane that hue rotates and saturation scales
YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]], dtype=torch.float64)
RGB = torch.linalg.inv(YIQ)


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
        """Change the colors of an image; the caller clips values outside 0 to 255.

        Args:
            image: float32 (C, H, W). Three channels mean RGB; other images get brightness and contrast only.

        Returns:
            float32 (C, H, W).
        """
        means = image.mean((1, 2))
        rgb = image.shape[0] == 3
        gray = float((YIQ[0] * means).sum() if rgb else means.mean())
        gain = self.brightness * self.contrast
        offset = (1 - self.contrast) * self.brightness * gray
        if not rgb or (self.saturation == 1 and self.hue == 0):
            return image.mul(gain).add_(offset)
        matrix = (gain * self._chroma()).float()
        return torch.addmm(torch.full((3, 1), offset, dtype=torch.float32), matrix, image.reshape(3, -1)).view_as(image)

    def _chroma(self) -> Tensor:
        """Return the RGB matrix (3, 3) of saturation and hue; it keeps the gray of every pixel."""
        angle = 2 * pi * self.hue
        rotation = torch.eye(3, dtype=torch.float64)
        turned = torch.tensor([[cos(angle), sin(angle)], [-sin(angle), cos(angle)]], dtype=torch.float32)
        rotation[1:, 1:] = self.saturation * turned
        chroma: Tensor = RGB @ rotation @ YIQ
        return chroma
