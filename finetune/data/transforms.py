"""Augmentation of an image with its mask."""

from collections.abc import Sequence
from math import exp, log
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from finetune.data.color_jitter import ColorJitter
from finetune.data.crop import CropTransform

DRAWS = 12  # random numbers per sample


class Transform(Protocol):
    """A random change of a training sample, chosen by `augment._target_`.

    Its constructor takes the settings of `augment`, and `ignore_index` if it has a parameter of that name: pixels that
    the image does not cover get this label in the target.
    """

    def __call__(self, image: Tensor, target: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Change image and target, with random numbers from the generator only.

        Args:
            image: uint8 (C, H, W).
            target: uint8 class indices (H, W), or one channel per class (K, H, W).
            generator: on the CPU, seeded for this sample.

        Returns:
            Image uint8 (C, h, w) and target uint8 (h, w) or (K, h, w).
        """


class Augment:
    """Random scale, rotation, flips and crop in one resampling, then color in one matrix, then blur.

    Every call draws equally many random numbers, so that switching one part on leaves the others unchanged. Geometry is
    evaluated at the size of the crop, on the part of the source that the crop shows. Image and target share it:
    bilinear (antialiased when it shrinks) for the image, nearest for the target. Without rotation, the crop starts and
    ends on whole source pixels, which may change the scale by a pixel in the crop's length, and scale 1 copies exactly.

    Useful strengths:

    - none: `Augment(crop, scale=(1, 1), flip=0, shift=0)`, the center of the image, the same every time.
    - light: the defaults.
    - strong: `Augment(crop, rotation=10, brightness=0.3, contrast=0.3, saturation=0.3, hue=0.05, blur=0.2)`.

    Args:
        crop: size to return, (height, width) or one number for both; None for each image's own size.
        scale: smallest and largest factor on the image's size, drawn log-uniformly.
        flip: probability of a horizontal flip.
        vertical_flip: probability of a vertical flip.
        rotation: largest rotation to either side, degrees.
        shift: fraction of the free room in which the crop is placed: 1 is anywhere, 0 the center.
        brightness: b draws a factor on all values from 1 - b to 1 + b.
        contrast: same, on the distance to the image's mean gray.
        saturation: same, on the distance to a pixel's gray; RGB only.
        hue: largest rotation of the hue to either side, in full circles (0 to 0.5); RGB only.
        blur: probability of a Gaussian blur.
        blur_sigma: smallest and largest sigma of the blur, pixels of the crop.
        ignore_index: label of the pixels that the image does not cover.
    """

    def __init__(
        self,
        crop: int | tuple[int, int] | None = 320,
        scale: tuple[float, float] = (0.5, 2.0),
        flip: float = 0.5,
        vertical_flip: float = 0.0,
        rotation: float = 0.0,
        shift: float = 1.0,
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        hue: float = 0.0,
        blur: float = 0.0,
        blur_sigma: tuple[float, float] = (0.1, 2.0),
        ignore_index: int = 255,
    ) -> None:
        for name, (low, high) in {"scale": scale, "blur_sigma": blur_sigma}.items():
            if not 0 < low <= high:
                raise ValueError(f"{name}={(low, high)}: expected two numbers above 0, the lesser one first.")
        fractions = {"flip": flip, "vertical_flip": vertical_flip, "blur": blur, "shift": shift}
        fractions |= {"brightness": brightness, "contrast": contrast, "saturation": saturation}
        for name, value in fractions.items():
            _check_range(name, value, 1)
        _check_range("hue", hue, 0.5)
        _check_range("rotation", rotation, 180)
        self.crop = None if crop is None else crop_size(crop)
        self.scale = scale
        self.flip = flip
        self.vertical_flip = vertical_flip
        self.rotation = rotation
        self.shift = shift
        self.brightness = brightness
        self.contrast = contrast
        self.saturation = saturation
        self.hue = hue
        self.blur = blur
        self.blur_sigma = blur_sigma
        self.ignore_index = ignore_index

    def __call__(self, image: Tensor, target: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Augment one sample; see `Transform`."""
        draws = torch.rand(DRAWS, generator=generator, dtype=torch.float64).tolist()
        view, flips = self._view(draws[:6], (image.shape[1], image.shape[2]))
        image = self._blur(self._color(view.image(image), draws[6:10]), draws[10:])
        target = view.mask(target, self.ignore_index)
        # last: on uint8 a flip is cheapest
        return _byte(image).flip([dim - 2 for dim in flips]), target.flip([dim - 2 for dim in flips])

    def _view(self, draws: Sequence[float], size: tuple[int, int]) -> tuple[CropTransform, list[int]]:
        """Return the geometry, and which of height (0) and width (1) to flip."""
        scale, angle, y, x, horizontal, vertical = draws
        low, high = self.scale
        view = CropTransform(
            source=size,
            crop=self.crop or size,
            scale=exp(log(low) + scale * (log(high) - log(low))),
            angle=_around(0, self.rotation, angle),
            position=(_around(0.5, self.shift / 2, y), _around(0.5, self.shift / 2, x)),
        )
        return view, [0] * (vertical < self.vertical_flip) + [1] * (horizontal < self.flip)

    def _color(self, image: Tensor, draws: Sequence[float]) -> Tensor:
        brightness, contrast, saturation, hue = draws
        color = ColorJitter(
            max(0.0, _around(1, self.brightness, brightness)),
            max(0.0, _around(1, self.contrast, contrast)),
            max(0.0, _around(1, self.saturation, saturation)),
            _around(0, self.hue, hue),
        )
        return image if color == ColorJitter() else color(image.float())

    def _blur(self, image: Tensor, draws: Sequence[float]) -> Tensor:
        chance, width = draws
        low, high = self.blur_sigma
        return gaussian_blur(image.float(), low + width * (high - low)) if chance < self.blur else image


def _check_range(name: str, value: float, highest: float) -> None:
    if not 0 <= value <= highest:
        raise ValueError(f"{name}={value}: expected a number from 0 to {highest:g}.")


def crop_size(crop: int | tuple[int, int]) -> tuple[int, int]:
    """Return (height, width) of a crop given as such, or as one number for both.

    Raises:
        ValueError: a size is below 1 pixel.
    """
    height, width = (crop, crop) if isinstance(crop, int) else crop
    if min(height, width) < 1:
        raise ValueError(f"crop={crop}: expected sizes of 1 pixel or more, or None for each image's own size.")
    return height, width


def gaussian_blur(image: Tensor, sigma: float) -> Tensor:
    """Blur with a Gaussian cut off at three sigma; the border repeats.

    Args:
        image: float32 (C, H, W).
        sigma: standard deviation, pixels.

    Returns:
        float32 (C, H, W).
    """
    radius = max(1, round(3 * sigma))
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float32) / sigma) ** 2)
    weights = (taps / taps.sum()).tolist()
    padded = pad(image[None], (radius, radius, radius, radius), mode="replicate")[0]
    # shifted sums, one axis at a time: ten times as fast as a depthwise convolution on the CPU
    for dim in (1, 2):
        size = padded.shape[dim] - 2 * radius
        total = padded.narrow(dim, 0, size) * weights[0]
        for start, weight in enumerate(weights[1:], start=1):
            total.add_(padded.narrow(dim, start, size), alpha=weight)
        padded = total
    return padded


def _around(center: float, reach: float, draw: float) -> float:
    """Return a draw from 0 to 1 as a number within reach of the center."""
    return center + reach * (2 * draw - 1)


def _byte(image: Tensor) -> Tensor:
    if image.dtype == torch.uint8:
        return image
    return image.round_().clamp_(0, 255).to(torch.int16).to(torch.uint8)  # by int16: five times as fast as directly
