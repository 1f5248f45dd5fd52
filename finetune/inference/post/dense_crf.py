"""Probabilities on which similar pixels agree, however far from each other they are."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from finetune.inference.output import SMALLEST
from finetune.inference.post.permutohedral import PermutohedralLattice

REACH = 4  # standard deviations at which the smoothness kernel is cut off


@dataclass(frozen=True)
class DenseCRF:
    """Mean field of a CRF that connects all pairs of pixels by two Gaussian kernels, with the Potts model.

    Kernels are normalized symmetrically: 1 is about the message of an image that agrees on a class. As in
    the authors' own program, a pixel is its own neighbor, too.

    Attributes:
        iterations: of the mean field.
        appearance_weight: of the kernel of position and color.
        appearance_std: of the positions in it, pixels.
        color_std: of each band in it, whose values are 0..255.
        smoothness_weight: of the kernel of position alone.
        smoothness_std: of the positions in it, pixels.
        exclusive: whether a pixel has exactly one class; otherwise, each class has a CRF of its own.

    Source: Krähenbühl and Koltun 2011, https://arxiv.org/abs/1210.5644
    """

    iterations: int = 5
    appearance_weight: float = 3.0
    appearance_std: float = 61.0
    color_std: float = 11.0
    smoothness_weight: float = 1.0
    smoothness_std: float = 1.0
    exclusive: bool = True

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ValueError(f"iterations={self.iterations}: expected 1 or more.")
        for name in ("appearance_std", "color_std", "smoothness_std"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)}: expected a number above 0.")
        for name in ("appearance_weight", "smoothness_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}={getattr(self, name)}: expected a number of 0 or more.")

    def refine(self, probabilities: Tensor, images: Tensor) -> Tensor:
        """Return the probabilities (B, K, H, W) of the mean field, float32."""
        return torch.stack([self._mean_field(p, image) for p, image in zip(probabilities.float(), images, strict=True)])

    def _mean_field(self, p: Tensor, image: Tensor) -> Tensor:
        """Return the mean field (K, H, W) of the probabilities of an image (C, H, W)."""
        unary = p.clamp(min=SMALLEST).log() if self.exclusive else p.logit(SMALLEST)
        lattice = PermutohedralLattice(self._features(image))
        ones = torch.ones_like(p[:1])
        near, far = (1 / kernel.sqrt() for kernel in (self._smooth(ones), _filter(lattice, ones)))
        for _ in range(self.iterations):
            belief = p if self.exclusive else 2 * p - 1  # in a class, and against it
            message = self.smoothness_weight * near * self._smooth(near * belief)
            message += self.appearance_weight * far * _filter(lattice, far * belief)
            p = (unary + message).softmax(dim=0) if self.exclusive else (unary + message).sigmoid()
        return p

    def _features(self, image: Tensor) -> Tensor:
        """Return position and colors (H * W, 2 + C) of all pixels in standard deviations."""
        rows, columns = (torch.arange(side, device=image.device) / self.appearance_std for side in image.shape[1:])
        positions = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
        return torch.cat([positions, image / self.color_std]).flatten(1).T

    def _smooth(self, values: Tensor) -> Tensor:
        """Return the sums (K, H, W) of values around each pixel, weighted by the smoothness kernel."""
        for dim in (1, 2):
            side, summed = values.shape[dim], values.clone()
            for step in range(1, min(math.ceil(REACH * self.smoothness_std), side - 1) + 1):
                weight, rest = math.exp(-((step / self.smoothness_std) ** 2) / 2), side - step
                summed.narrow(dim, 0, rest).add_(values.narrow(dim, step, rest), alpha=weight)
                summed.narrow(dim, step, rest).add_(values.narrow(dim, 0, rest), alpha=weight)
            values = summed
        return values


def _filter(lattice: PermutohedralLattice, values: Tensor) -> Tensor:
    """Return the sums (K, H, W) of values over all pixels, weighted by the appearance kernel."""
    return lattice.filter(values.flatten(1).T.contiguous()).T.reshape(values.shape)
