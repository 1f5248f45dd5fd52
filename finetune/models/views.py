"""Test-time augmentation: several views of an image, whose logits are averaged."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import product
from typing import Any, NamedTuple

from torch import Tensor
from torch.nn import functional as F

SMALLEST, LARGEST = 0.25, 4.0  # scales; a view of scale 4 takes 16 times the time and memory of the image
MOST_SCALES = 10  # bounds the time that an untrusted config can ask for
MIN_SIDE = 8  # pixels of a scaled image


class View(NamedTuple):
    """One way to look at an image.

    Attributes:
        scale: factor of height and width.
        turns: quarter turns to the left, 0..3.
        mirrored: whether left and right are exchanged, before the turns.
    """

    scale: float = 1.0
    turns: int = 0
    mirrored: bool = False

    def of(self, images: Tensor) -> Tensor:
        """Return this view of images (B, C, H, W)."""
        if self.scale != 1:
            size = [max(MIN_SIDE, round(self.scale * side)) for side in images.shape[-2:]]
            images = F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=self.scale < 1)
        images = images.flip(-1) if self.mirrored else images
        return _turned(images, self.turns)

    def undo(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        """Return maps (B, C, h, w) of this view as maps of the images, which have this height and width."""
        maps = _turned(maps, -self.turns % 4)
        maps = maps.flip(-1) if self.mirrored else maps
        return maps if self.scale == 1 else F.interpolate(maps, size, mode="bilinear", align_corners=False)


def _turned(images: Tensor, turns: int) -> Tensor:
    """Return images (B, C, H, W) after some quarter turns to the left, as `torch.rot90`, which ONNX does not have."""
    if turns == 2:
        return images.flip((-2, -1))
    return images.transpose(-2, -1).flip(-2 if turns == 1 else -1) if turns else images


@dataclass(frozen=True)
class Views:
    """The views of an image that are averaged: all combinations of flips, rotations and scales.

    Args:
        flips: `horizontal` exchanges left and right, `vertical` top and bottom; both add both at once, too.
        rotations: whether to add the quarter turns.
        scales: factors of height and width.

    Raises:
        ValueError: an unknown flip, or scales outside of 0.25 to 4.

    >>> len(Views(["horizontal"], scales=[0.75, 1.0]).all), len(Views(["horizontal"], rotations=True).all)
    (4, 8)
    """

    flips: Sequence[str] = ()
    rotations: bool = False
    scales: Sequence[float] = (1.0,)

    def __post_init__(self) -> None:
        if unknown := set(self.flips) - {"horizontal", "vertical"}:
            raise ValueError(f"tta.flips={list(self.flips)}: expected horizontal and vertical, not {sorted(unknown)}.")
        in_range = all(SMALLEST <= scale <= LARGEST for scale in self.scales)
        if not (in_range and 1 <= len(self.scales) <= MOST_SCALES):
            raise ValueError(
                f"tta.scales={list(self.scales)}: expected up to {MOST_SCALES} numbers from {SMALLEST} to {LARGEST}."
            )

    @cached_property
    def all(self) -> list[View]:
        """Every view once; a flip of top and bottom is one of left and right with two quarter turns."""
        horizontal = (False, True) if "horizontal" in self.flips else (False,)
        vertical = (False, True) if "vertical" in self.flips else (False,)
        quarters = range(4) if self.rotations else range(1)
        return list(
            dict.fromkeys(
                View(float(scale), (turns + 2 * down) % 4, mirrored != down)
                for scale, turns, down, mirrored in product(self.scales, quarters, vertical, horizontal)
            )
        )

    @property
    def cost(self) -> float:
        """Time for all views, as a multiple of the time for the image as it is."""
        return sum(view.scale**2 for view in self.all)

    def describe(self) -> str:
        """Return a line about the views.

        >>> Views(["horizontal"], scales=[0.75, 1.0]).describe()
        '4 views of each image: flipped horizontally, scaled by 0.75, 1'
        """
        parts = [f"flipped {' and '.join(f'{flip}ly' for flip in self.flips)}"] if self.flips else []
        parts += ["turned by quarters"] if self.rotations else []
        parts += [f"scaled by {', '.join(f'{scale:g}' for scale in self.scales)}"] if list(self.scales) != [1] else []
        return f"{len(self.all)} views of each image: {', '.join(parts)}"

    def config(self) -> dict[str, Any]:
        """Return the arguments as plain data."""
        return {name: list(value) if isinstance(value, Sequence) else value for name, value in asdict(self).items()}


def average_views(predict: Callable[[Tensor], list[Tensor]], images: Tensor, views: Views) -> list[Tensor]:
    """Return the mean of the predictions for all views of images.

    Args:
        predict: returns maps (B, C, h, w) for images (B, C', h, w).
        images: (B, C', H, W).
        views: to average.
    """
    size = (images.shape[-2], images.shape[-1])
    sums: list[Tensor] = []
    for view in views.all:
        maps = [view.undo(map_, size) for map_ in predict(view.of(images))]
        sums = [total.add_(map_) for total, map_ in zip(sums, maps, strict=True)] if sums else [m.clone() for m in maps]
    return [total / len(views.all) for total in sums]
