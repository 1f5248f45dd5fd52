"""The geometry of a random crop, evaluated at the size of the crop."""

from dataclasses import dataclass
from functools import cached_property
from math import ceil, cos, floor, radians, sin

import torch
import torch.nn.functional as F
from torch import Tensor

from finetune.data.augmentation.warp import Warp

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
            uint8 (C, *crop), or float32 of the same range if the view is rotated or warped.
        """
        (top, bottom), (left, right) = self._box
        part = image[:, top:bottom, left:right]
        if self._is_upright:
            (y0, y1), (x0, x1) = self._seen
            scaled = _resize(part, (y1 - y0, x1 - x0))
            return scaled if scaled.shape[1:] == self.crop else self._pad(scaled, _mean(part))
        if self.scale < 1:
            part = _resize(part, (ceil((bottom - top) * self.scale), ceil((right - left) * self.scale)))
        values = part.float()
        fill = values.mean((1, 2), keepdim=True)
        # grid_sample puts zero outside, so zero must stand for the fill
        return F.grid_sample(values.sub_(fill)[None], self._grid, align_corners=False)[0].add_(fill)

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
        values = part.float().sub_(ignore_index).view(1, -1, *part.shape[-2:])
        sampled = F.grid_sample(values, self._grid, mode="nearest", align_corners=False)
        labels = sampled[0].add_(ignore_index).to(torch.int16).to(torch.uint8)
        return labels.view(*mask.shape[:-2], *self.crop)

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

    @cached_property
    def _grid(self) -> Tensor:
        """Position of each crop pixel in the box, in the units of `grid_sample`: -1 to 1, (1, *crop, 2)."""
        (top, bottom), (left, right) = self._box
        (yy, yx, y0), (xy, xx, x0) = self._affine
        y, x = self._warped
        grid = torch.empty(2, *self.crop, dtype=torch.float32)
        # outer sums written in place, one plane for x and one for y: two fifths of the time of writing them alternately
        across, down = 2 / (right - left), 2 / (bottom - top)
        torch.add(x * (xx * across) + ((x0 - left) * across - 1), y * (xy * across), out=grid[0])
        torch.add(x * (yx * down) + ((y0 - top) * down - 1), y * (yy * down), out=grid[1])
        return grid.permute(1, 2, 0)[None]

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
    if image.shape[1:] == size:
        return image
    if size == (1, 1):
        return _mean(image).view(-1, 1, 1)  # torch's uint8 kernel fails on one RGB pixel
    return F.interpolate(image[None], size=size, mode="bilinear", align_corners=False, antialias=True)[0]


def _nearest(mask: Tensor, size: Size) -> Tensor:
    """Return the label at the center of each output pixel; leading dimensions stay."""
    for dim, new in zip((-2, -1), size, strict=True):
        old = mask.shape[dim]
        if old != new:
            mask = mask.index_select(dim, (torch.arange(new) * 2 + 1) * old // (2 * new))
    return mask


def _mean(image: Tensor) -> Tensor:
    return image.float().mean((1, 2)).round().to(torch.uint8)
