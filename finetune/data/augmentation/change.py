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
        """Change an image.

        Args:
            image: uint8 (C, H, W), or float32 of the same range, which may be overwritten.

        Returns:
            uint8 (C, H, W).
        """
        if self.equalize:
            image = equalize(to_byte(image))
        if self.clahe:
            image = clahe(to_byte(image), self.clahe)
        if self.color != ColorJitter():
            image = self.color(image.float())
        if self.gamma != 1:
            image = adjust_gamma(to_byte(image), self.gamma)
        if self.blur:
            image = gaussian_blur(image.float(), self.blur)
        if self.sharpen:
            image = sharpen(image.float(), self.sharpen)
        if self.noise:
            image = gaussian_noise(image.float(), 255 * self.noise, torch.Generator().manual_seed(self.seed))
        image = to_byte(image)
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
        image = self.pixels(self.view.image(image))
        target = self.view.mask(target, ignore_index)
        if self.cutout is not None:
            image, target = cutout(image, target, self.cutout, ignore_index if self.cutout_ignored else None)
        # last: on uint8 a flip is cheapest
        return image.flip([dim - 2 for dim in self.flips]), target.flip([dim - 2 for dim in self.flips])


def to_byte(image: Tensor) -> Tensor:
    """Return an image as uint8, values rounded and clipped; a float32 one is overwritten."""
    if image.dtype == torch.uint8:
        return image
    return image.round_().clamp_(0, 255).to(torch.int16).to(torch.uint8)  # by int16: five times as fast as directly
