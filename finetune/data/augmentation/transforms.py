"""Augmentation of an image with its mask."""

from collections.abc import Sequence
from math import exp, log
from typing import Protocol

import torch
from torch import Tensor

from finetune.data.augmentation.change import PixelChange, SampleChange
from finetune.data.augmentation.class_crop import position_around, random_pixel, rare_class
from finetune.data.augmentation.color_jitter import ColorJitter
from finetune.data.augmentation.crop import CropTransform
from finetune.data.augmentation.operations import Box, cutout_box
from finetune.data.augmentation.warp import Warp

DRAWS = 12  # random numbers per sample, first those for position, flips, color and blur
MORE_DRAWS = 18  # then those for everything else
GRID_PARTS = 5  # rows and columns of a grid distortion
SEEDS = 2**53  # as many as a random float64 has values


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
    """Random geometry, then random changes of the values, then flips.

    Every call draws equally many random numbers, so that switching one part on leaves the others unchanged. Geometry is
    evaluated at the size of the crop, on the part of the source that the crop shows. Image and target share it:
    bilinear for the image, which is antialiased by a resize before the warp if it shrinks; nearest for the target.
    Without rotation and distortion, the crop starts and ends on whole source pixels, which may change the scale by a
    pixel in the crop's length, and scale 1 copies exactly. The order is scale, rotation, crop, elastic, grid
    distortion, perspective; equalize, clahe, color, gamma, blur, sharpen, noise, JPEG, cutout; flips.

    Useful strengths are in `conf/augment/`: `none`, the center of the image, the same every time; `light`; `strong`.

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
        class_crop: probability that the crop is placed around a pixel of a class that is drawn among those in the mask,
            inversely to the number of their pixels; the pixel is in the middle half of the crop.
        perspective: largest shift of each corner, as a fraction of the crop's height and width (0 to 0.2).
        elastic: largest displacement of an elastic deformation, pixels of the crop.
        elastic_spacing: distance of the points that are displaced independently, pixels of the crop.
        grid_distortion: g draws factors from 1 - g to 1 + g on the heights of 5 rows and the widths of 5 columns.
        gamma: g draws an exponent on the brightness from 1 / (1 + g) to 1 + g, log-uniformly.
        noise: largest standard deviation of Gaussian noise, as a fraction of 255.
        sharpen: probability of sharpening.
        sharpen_amount: smallest and largest amount of it; 1 doubles the distance to the blurred image.
        jpeg: probability of a JPEG compression; gray and RGB only, other images stay as they are.
        jpeg_quality: smallest and largest quality of it, 1 to 95.
        equalize: probability of a histogram equalization, each channel for itself.
        clahe: probability of a local histogram equalization (CLAHE), each channel for itself.
        clahe_limit: smallest and largest limit of its contrast, in means of a histogram.
        cutout: probability that a rectangle of the image gets its mean color.
        cutout_area: smallest and largest fraction of the crop that the rectangle covers.
        cutout_ignored: whether the target ignores the rectangle; False keeps the labels.
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
        class_crop: float = 0.0,
        perspective: float = 0.0,
        elastic: float = 0.0,
        elastic_spacing: int = 64,
        grid_distortion: float = 0.0,
        gamma: float = 0.0,
        noise: float = 0.0,
        sharpen: float = 0.0,
        sharpen_amount: tuple[float, float] = (0.2, 1.5),
        jpeg: float = 0.0,
        jpeg_quality: tuple[int, int] = (30, 90),
        equalize: float = 0.0,
        clahe: float = 0.0,
        clahe_limit: tuple[float, float] = (1.5, 4.0),
        cutout: float = 0.0,
        cutout_area: tuple[float, float] = (0.02, 0.2),
        cutout_ignored: bool = False,
        ignore_index: int = 255,
    ) -> None:
        _check_pairs(scale=scale, blur_sigma=blur_sigma, sharpen_amount=sharpen_amount, clahe_limit=clahe_limit)
        _check_pairs(jpeg_quality=jpeg_quality, cutout_area=cutout_area)
        probabilities = {"flip": flip, "vertical_flip": vertical_flip, "blur": blur, "class_crop": class_crop}
        probabilities |= {"sharpen": sharpen, "jpeg": jpeg, "equalize": equalize, "clahe": clahe, "cutout": cutout}
        fractions = {"shift": shift, "brightness": brightness, "contrast": contrast, "saturation": saturation}
        _check_ranges(1, **probabilities, **fractions, noise=noise, cutout_area=cutout_area[1])
        _check_ranges(0.5, hue=hue)
        _check_ranges(180, rotation=rotation)
        _check_ranges(0.2, perspective=perspective)  # from 0.25 on, opposite corners may pass each other
        _check_ranges(0.9, grid_distortion=grid_distortion)
        _check_ranges(10, gamma=gamma)
        _check_ranges(95, jpeg_quality=jpeg_quality[1])
        if elastic_spacing < 1 or not 0 <= elastic <= elastic_spacing / 4:
            raise ValueError(
                f"elastic={elastic} with elastic_spacing={elastic_spacing}: expected from 0 to a quarter of the "
                f"spacing; with more, the image would fold. Lower elastic, or raise elastic_spacing."
            )
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
        self.class_crop = class_crop
        self.perspective = perspective
        self.elastic = elastic
        self.elastic_spacing = elastic_spacing
        self.grid_distortion = grid_distortion
        self.gamma = gamma
        self.noise = noise
        self.sharpen = sharpen
        self.sharpen_amount = sharpen_amount
        self.jpeg = jpeg
        self.jpeg_quality = jpeg_quality
        self.equalize = equalize
        self.clahe = clahe
        self.clahe_limit = clahe_limit
        self.cutout = cutout
        self.cutout_area = cutout_area
        self.cutout_ignored = cutout_ignored
        self.ignore_index = ignore_index

    @property
    def changes_color(self) -> bool:
        """Whether a sample may get other colors."""
        return bool(self.brightness or self.contrast or self.saturation or self.hue)

    def __call__(self, image: Tensor, target: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Augment one sample; see `Transform`."""
        return self.draw(target, generator)(image, target, self.ignore_index)

    def draw(self, target: Tensor, generator: torch.Generator) -> SampleChange:
        """Draw the change of one sample.

        Args:
            target: uint8 (H, W) or (K, H, W).
            generator: on the CPU.
        """
        draws = torch.rand(DRAWS, generator=generator, dtype=torch.float64).tolist()
        more = torch.rand(MORE_DRAWS, generator=generator, dtype=torch.float64).tolist()
        view = self._view(draws[:4], more[:4], target)
        return SampleChange(
            view,
            self._pixels(draws[6:], more[4:13]),
            (0,) * (draws[5] < self.vertical_flip) + (1,) * (draws[4] < self.flip),
            self._cutout_box(more[13:], view.crop),
            self.cutout_ignored,
        )

    def _view(self, draws: Sequence[float], more: Sequence[float], target: Tensor) -> CropTransform:
        height, width = target.shape[-2:]
        factor, angle, y, x = draws
        chance, label, pixel, warp = more
        low, high = self.scale
        scale = exp(log(low) + factor * (log(high) - log(low)))
        crop = self.crop or (height, width)
        position = _around(0.5, self.shift / 2, y), _around(0.5, self.shift / 2, x)
        if chance < self.class_crop and (where := rare_class(target, label, self.ignore_index)) is not None:
            axes = zip(random_pixel(where, pixel), (height, width), crop, (y, x), position, strict=True)
            down, across = (
                drawn if (around := position_around(index, source, scale, side, draw)) is None else around
                for index, source, side, draw, drawn in axes
            )
            position = down, across
        return CropTransform((height, width), crop, scale, _around(0, self.rotation, angle), position, self._warp(warp))

    def _warp(self, draw: float) -> Warp | None:
        if not (self.perspective or self.elastic or self.grid_distortion):
            return None
        seed = int(draw * SEEDS)
        generator = torch.Generator().manual_seed(seed)
        draws = torch.rand(9 + 2 * GRID_PARTS, generator=generator, dtype=torch.float64).tolist()
        shifts = [_around(0, self.perspective, shift) for shift in draws[:8]]
        grid = [_around(1, self.grid_distortion, length) for length in draws[8:-1]] if self.grid_distortion else []
        return Warp(
            tuple(zip(shifts[::2], shifts[1::2], strict=True)),
            tuple(grid[:GRID_PARTS]),
            tuple(grid[GRID_PARTS:]),
            self.elastic * draws[-1],
            self.elastic_spacing,
            seed,
        )

    def _pixels(self, draws: Sequence[float], more: Sequence[float]) -> PixelChange:
        brightness, contrast, saturation, hue, blur, sigma = draws
        equalize, clahe, limit, gamma, noise, sharpen, amount, jpeg, quality = more
        color = ColorJitter(
            max(0.0, _around(1, self.brightness, brightness)),
            max(0.0, _around(1, self.contrast, contrast)),
            max(0.0, _around(1, self.saturation, saturation)),
            _around(0, self.hue, hue),
        )
        return PixelChange(
            equalize=equalize < self.equalize,
            clahe=_between(self.clahe_limit, limit) if clahe < self.clahe else 0.0,
            color=color,
            gamma=exp(_around(0, log(1 + self.gamma), gamma)),
            blur=_between(self.blur_sigma, sigma) if blur < self.blur else 0.0,
            sharpen=_between(self.sharpen_amount, amount) if sharpen < self.sharpen else 0.0,
            noise=self.noise * noise,
            jpeg=round(_between(self.jpeg_quality, quality)) if jpeg < self.jpeg else None,
            seed=int(noise * SEEDS),
        )

    def _cutout_box(self, draws: Sequence[float], crop: tuple[int, int]) -> Box | None:
        chance, area, ratio, y, x = draws
        if chance >= self.cutout:
            return None
        return cutout_box(crop, _between(self.cutout_area, area), exp(_around(0, log(2), ratio)), (y, x))


def _check_pairs(**pairs: tuple[float, float]) -> None:
    for name, (low, high) in pairs.items():
        if not 0 < low <= high:
            raise ValueError(f"{name}={(low, high)}: expected two numbers above 0, the lesser one first.")


def _check_ranges(highest: float, **values: float) -> None:
    for name, value in values.items():
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


def _around(center: float, reach: float, draw: float) -> float:
    """Return a draw from 0 to 1 as a number within reach of the center."""
    return center + reach * (2 * draw - 1)


def _between(ends: tuple[float, float], draw: float) -> float:
    """Return a draw from 0 to 1 as a number between two others."""
    return ends[0] + draw * (ends[1] - ends[0])
