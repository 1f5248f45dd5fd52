"""The geometry of a random crop, evaluated at the size of the crop."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, cos, floor, radians, sin
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from finetune.data.augmentation.warp import Warp
from finetune.data.opencv import MOST, Array, apply, channel_means, contiguous

Size = tuple[int, int]
Range = tuple[int, int]
Pair = tuple[float, float]


@dataclass(frozen=True)
class CropTransform:
    """A view of an image: scaled, then rotated, then cropped or padded, then warped.

    The center of rotation is the center of the crop's visible part, so that a crop never rotates out of the image. Only
    the part of the source that the crop shows is read, however large the source is.

    Attributes:
        source: height and width of the image, pixels.
        crop: height and width to return.
        scale: size of the scaled image relative to the source.
        angle: rotation, counter-clockwise, degrees.
        position: position of the crop in the scaled image (or, if that is smaller, of the image in the crop) by height
            and width: 0 is the top and the left, 1 the bottom and the right.
        warp: distortion of the crop; None for none.
    """

    source: Size
    crop: Size
    scale: float = 1.0
    angle: float = 0.0
    position: tuple[float, float] = (0.5, 0.5)
    warp: Warp | None = None

    def image(self, image: Tensor) -> Tensor:
        """Resample an image bilinearly, with antialiasing when it shrinks.

        Pixels that the image does not cover get the mean color of the visible part: black would add an edge, while the
        mean is close to zero after normalization.

        Args:
            image: uint8 (C, H, W).

        Returns:
            uint8 (C, *crop).
        """
        (top, bottom), (left, right) = self._box
        part = image[:, top:bottom, left:right]
        if self._is_upright:
            (y0, y1), (x0, x1) = self._seen
            scaled = _resize(part, (y1 - y0, x1 - x0))
            return scaled if scaled.shape[1:] == self.crop else self._pad(scaled, _mean(part))
        if self.scale < 1:
            part = _resize(part, (ceil((bottom - top) * self.scale), ceil((right - left) * self.scale)))
        return apply(self._sample_bilinear, part)

    def mask(self, mask: Tensor, ignore_index: int = 255) -> Tensor:
        """Resample a mask by nearest neighbor.

        Args:
            mask: uint8 (H, W) or (K, H, W).
            ignore_index: label of the pixels that the image does not cover.

        Returns:
            uint8 (*crop) or (K, *crop).
        """
        (top, bottom), (left, right) = self._box
        part = mask[..., top:bottom, left:right]
        if self._is_upright:
            (y0, y1), (x0, x1) = self._seen
            scaled = _nearest(part, (y1 - y0, x1 - x0))
            return scaled if scaled.shape[-2:] == self.crop else self._pad(scaled, torch.tensor(ignore_index))
        fill = (ignore_index,) * MOST
        labels = apply(lambda pixels: self._sample(pixels, cv2.INTER_NEAREST, fill), part.view(-1, *part.shape[-2:]))
        return contiguous(labels).view(*mask.shape[:-2], *self.crop)

    @property
    def _is_upright(self) -> bool:
        """Whether rows of the crop are rows of the source."""
        return not self.angle and self.warp is None

    @cached_property
    def _scaled(self) -> Size:
        return max(1, round(self.source[0] * self.scale)), max(1, round(self.source[1] * self.scale))

    @cached_property
    def _corner(self) -> Size:
        """Top left corner of the crop in the scaled image; negative if the crop is larger."""
        top, left = (
            round(position * (scaled - crop))
            for position, scaled, crop in zip(self.position, self._scaled, self.crop, strict=True)
        )
        return top, left

    @cached_property
    def _seen(self) -> tuple[Range, Range]:
        """Rows and columns of the crop that the image covers before the rotation."""
        rows, columns = (
            (max(0, -start), min(crop, scaled - start))
            for start, scaled, crop in zip(self._corner, self._scaled, self.crop, strict=True)
        )
        return rows, columns

    @cached_property
    def _box(self) -> tuple[Range, Range]:
        """Rows and columns of the source that the crop needs."""
        return self._upright_box() if self._is_upright else self._turned_box()

    def _upright_box(self) -> tuple[Range, Range]:
        rows, columns = (
            _whole((start + first) * source / scaled, (start + end) * source / scaled, source)
            for (first, end), start, source, scaled in zip(
                self._seen, self._corner, self.source, self._scaled, strict=True
            )
        )
        return rows, columns

    def _turned_box(self) -> tuple[Range, Range]:
        corners = [self._point(y, x) for y in self._extent[0] for x in self._extent[1]]
        margin = 1 + ceil(1 / self.scale)  # of the interpolation
        rows, columns = (
            _inside(floor(min(values)) - margin, ceil(max(values)) + margin, size)
            for values, size in zip(zip(*corners, strict=True), self.source, strict=True)
        )
        return rows, columns

    @cached_property
    def _warped(self) -> tuple[Tensor, Tensor]:
        """Position of each pixel's center in the crop before the warp, y and x."""
        return (self.warp or Warp()).positions(self.crop)

    @property
    def _extent(self) -> tuple[Pair, Pair]:
        """Lowest and highest position that the crop shows, by height and width."""
        if self.warp is None:
            return (0, self.crop[0]), (0, self.crop[1])
        rows, columns = ((float(positions.min()), float(positions.max())) for positions in self._warped)
        return rows, columns

    def _point(self, y: float, x: float) -> tuple[float, float]:
        """Return the source position (y, x) of a crop position, both in pixels from the top left corner."""
        (yy, yx, y0), (xy, xx, x0) = self._affine
        return yy * y + yx * x + y0, xy * y + xx * x + x0

    @cached_property
    def _affine(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """Matrix from crop to source positions: (y from y, from x, offset), (x from y, from x, offset)."""
        (y0, y1), (x0, x1) = self._seen
        center_y, center_x = (y0 + y1) / 2, (x0 + x1) / 2
        scale_y, scale_x = (scaled / source for scaled, source in zip(self._scaled, self.source, strict=True))
        c, s = cos(radians(self.angle)), sin(radians(self.angle))
        yy, yx = c / scale_y, s / scale_y
        xy, xx = -s / scale_x, c / scale_x
        return (
            (yy, yx, (center_y + self._corner[0]) / scale_y - yy * center_y - yx * center_x),
            (xy, xx, (center_x + self._corner[1]) / scale_x - xy * center_y - xx * center_x),
        )

    def _sample_bilinear(self, pixels: Array) -> Array:
        fill = cv2.mean(pixels)
        if pixels.shape[2] != 3:
            return self._sample(pixels, cv2.INTER_LINEAR, fill)
        # OpenCV takes half of the time for four channels
        wide = self._sample(cv2.cvtColor(pixels, cv2.COLOR_RGB2RGBA), cv2.INTER_LINEAR, fill)
        return cv2.cvtColor(wide, cv2.COLOR_RGBA2RGB)

    def _sample(self, pixels: Array, interpolation: int, fill: Sequence[float]) -> Array:
        """Return the crop of a view that is not upright.

        Args:
            pixels: of the box, (h, w, C), which may have been resized.
            interpolation: flag of OpenCV.
            fill: value of each channel where the image does not cover the crop.
        """
        (top, bottom), (left, right) = self._box
        (yy, yx, y0), (xy, xx, x0) = self._affine
        by_height, by_width = pixels.shape[0] / (bottom - top), pixels.shape[1] / (right - left)
        # OpenCV counts from the centers of pixels, we from the corners of the image
        to_x = by_width * xx, by_width * xy, by_width * (x0 - left + (xx + xy) / 2) - 0.5
        to_y = by_height * yx, by_height * yy, by_height * (y0 - top + (yx + yy) / 2) - 0.5
        border: Any = {"borderMode": cv2.BORDER_CONSTANT, "borderValue": fill}
        if self.warp is None:
            size, flags = self.crop[::-1], interpolation | cv2.WARP_INVERSE_MAP
            return np.asarray(cv2.warpAffine(pixels, np.array([to_x, to_y]), size, flags=flags, **border))
        y, x = (positions.numpy() - 0.5 for positions in self._warped)
        across, down = (x * a + (y * b + c) for a, b, c in (to_x, to_y))
        return np.asarray(cv2.remap(pixels, across, down, interpolation, **border))

    def _pad(self, part: Tensor, fill: Tensor) -> Tensor:
        """Put a part of any leading dimensions into the crop; the fill has the same leading dimensions, or none."""
        (y0, y1), (x0, x1) = self._seen
        padded = part.new_empty(*part.shape[:-2], *self.crop)
        padded[...] = fill[..., None, None]
        padded[..., y0:y1, x0:x1] = part
        return padded


def _inside(start: int, end: int, size: int) -> Range:
    """Return the part of a range in an image, never empty."""
    first = min(max(0, start), size - 1)
    return first, min(size, max(first + 1, end))


def _whole(start: float, end: float, size: int) -> Range:
    """Return the range in whole pixels, never empty."""
    first = min(round(start), size - 1)
    return first, min(size, max(first + 1, round(end)))


def _resize(image: Tensor, size: Size) -> Tensor:
    height, width = image.shape[1:]
    if (height, width) == size:
        return image
    if size == (1, 1):
        return _mean(image).view(-1, 1, 1)  # torch's uint8 kernel fails on one RGB pixel
    if height <= size[0] and width <= size[1]:
        return apply(lambda pixels: cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_LINEAR), image)
    if len(image) <= MOST:  # the layout in which torch takes half of the time
        image = apply(np.asarray, image)
    return F.interpolate(image[None], size=size, mode="bilinear", align_corners=False, antialias=True)[0]


def _nearest(mask: Tensor, size: Size) -> Tensor:
    """Return the label at the center of each output pixel; leading dimensions stay."""
    (height, width), (new_height, new_width) = mask.shape[-2:], size
    labels = mask.numpy()
    if height != new_height:
        labels = labels[..., (np.arange(new_height) * 2 + 1) * height // (2 * new_height), :]
    if width != new_width:  # in a step of its own: an eighth of the time of both axes at once
        labels = labels[..., (np.arange(new_width) * 2 + 1) * width // (2 * new_width)]
    return torch.from_numpy(labels)


def _mean(image: Tensor) -> Tensor:
    return torch.tensor(channel_means(image)).round().to(torch.uint8)
