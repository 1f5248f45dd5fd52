"""A change of one sample with all its strengths: what random numbers have been turned into."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from finetune.data.augmentation.color_jitter import ColorJitter
from finetune.data.augmentation.crop import CropTransform
from finetune.data.augmentation.operations import (
    Box,
    adjust_gamma,
    clahe,
    cutout,
    equalize,
    gaussian_blur,
    gaussian_noise,
    jpeg,
    sharpen,
)
from finetune.data.opencv import contiguous


@dataclass(frozen=True)
class PixelChange:
    """A change of the values of an image, in this order.

    Attributes:
        equalize: whether the histogram is equalized.
        clahe: limit of `clahe`; 0 for none.
        color: brightness, contrast, saturation and hue.
        gamma: exponent.
        blur: sigma of a Gaussian blur, pixels; 0 for none.
        sharpen: amount of `sharpen`; 0 for none.
        noise: standard deviation of Gaussian noise, fraction of 255.
        jpeg: quality of a JPEG compression; None for none.
        seed: of the noise.
    """

    equalize: bool = False
    clahe: float = 0.0
    color: ColorJitter = field(default_factory=ColorJitter)
    gamma: float = 1.0
    blur: float = 0.0
    sharpen: float = 0.0
    noise: float = 0.0
    jpeg: int | None = None
    seed: int = 0

    def __call__(self, image: Tensor) -> Tensor:
        """Change an image, uint8 (C, H, W)."""
        image = self._before_color(image)
        return self._after_color(self.color(image) if self.color != ColorJitter() else image)

    def without_color(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Change an image, uint8 (C, H, W), but for its colors if they can be changed last.

        Returns:
            The image, and the change of its colors that is left, float32 (C, C + 1), for `change_colors`.
        """
        is_last = not (self.blur or self.sharpen or self.noise) and (self.gamma, self.jpeg) == (1, None)
        if not is_last or self.color == ColorJitter():
            return self(image), torch.eye(len(image), len(image) + 1)
        image = self._before_color(image)
        return image, torch.from_numpy(self.color.matrix(image)).float()

    def _before_color(self, image: Tensor) -> Tensor:
        if self.equalize:
            image = equalize(image)
        return clahe(image, self.clahe) if self.clahe else image

    def _after_color(self, image: Tensor) -> Tensor:
        if self.gamma != 1:
            image = adjust_gamma(image, self.gamma)
        if self.blur:
            image = gaussian_blur(image, self.blur)
        if self.sharpen:
            image = sharpen(image, self.sharpen)
        if self.noise:
            image = gaussian_noise(image, 255 * self.noise, torch.Generator().manual_seed(self.seed))
        return image if self.jpeg is None else jpeg(image, self.jpeg)


@dataclass(frozen=True)
class SampleChange:
    """A change of an image with its target.

    Attributes:
        view: geometry.
        pixels: change of the image's values.
        flips: which of height (0) and width (1) are flipped.
        cutout: rectangle to cover, before the flips; None for none.
        cutout_ignored: whether the target ignores the rectangle.
    """

    view: CropTransform
    pixels: PixelChange = field(default_factory=PixelChange)
    flips: tuple[int, ...] = ()
    cutout: Box | None = None
    cutout_ignored: bool = False

    def __call__(self, image: Tensor, target: Tensor, ignore_index: int = 255) -> tuple[Tensor, Tensor]:
        """Change one sample.

        Args:
            image: uint8 (C, H, W).
            target: uint8 (H, W) or (K, H, W).
            ignore_index: label of the pixels that the image does not cover.

        Returns:
            Image uint8 (C, h, w) and target uint8 (h, w) or (K, h, w).
        """
        return self._with_target(self.pixels(self.view.image(image)), target, ignore_index)

    def without_color(self, image: Tensor, target: Tensor, ignore_index: int = 255) -> tuple[Tensor, Tensor, Tensor]:
        """Change one sample as a call does, but leave the change of its colors; see `PixelChange.without_color`."""
        image = self.view.image(image)
        if self.cutout is not None:  # it fills with the mean of the colors
            changed, matrix = self.pixels(image), torch.eye(len(image), len(image) + 1)
        else:
            changed, matrix = self.pixels.without_color(image)
        return *self._with_target(changed, target, ignore_index), matrix

    def _with_target(self, image: Tensor, target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
        target = self.view.mask(target, ignore_index)
        if self.cutout is not None:
            image, target = cutout(image, target, self.cutout, ignore_index if self.cutout_ignored else None)
        image = contiguous(image)
        return image.flip([dim - 2 for dim in self.flips]), target.flip([dim - 2 for dim in self.flips])
