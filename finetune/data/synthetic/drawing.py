"""Drawings with masks: textured shapes on textured ground, to try things without any data."""

from collections.abc import Callable
from math import cos, pi, sin

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor

from finetune.data.splitting.split_names import SPLITS
from finetune.data.synthetic.textures import FILLS, GROUNDS, Floats, light, surface

CLASS_NAMES = ("background", "disc", "square", "triangle", "star")
OVERSAMPLING = 4  # each pixel is drawn as 4 x 4, for smooth edges

Points = list[tuple[float, float]]


def draw(
    size: int | tuple[int, int] = 128, seed: int = 0, split: str = "train", index: int = 0
) -> tuple[Tensor, Tensor]:
    """Draw the image and mask of (seed, split, index).

    The class is the shape, and each shape has its texture; color, light, size and position say nothing about the class.

    Args:
        size: height and width, or (height, width), pixels.
        seed: of all images.
        split: "train", "val" or "test".
        index: of the image in its split.

    Returns:
        Image uint8 (3, H, W) and mask uint8 (H, W) of indices into `CLASS_NAMES`.
    """
    height, width = (size, size) if isinstance(size, int) else size
    rng = np.random.default_rng((seed, SPLITS.index(split), index))
    image = surface(rng, height, width, GROUNDS[rng.integers(len(GROUNDS))])
    mask = np.zeros((height, width), dtype=np.uint8)
    for _ in range(rng.integers(2, 6)):
        label = int(rng.integers(1, len(CLASS_NAMES)))
        cover = _cover(rng, label, height, width)
        _lay(rng, image, cover, surface(rng, height, width, FILLS[label - 1]))
        mask[np.asarray(cover) >= 128] = label
    image *= light(rng, height, width)
    image += rng.uniform(2, 8) * rng.standard_normal(image.shape, dtype=np.float32)
    pixels = image.clip(0, 255).astype(np.uint8)
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous(), torch.from_numpy(mask)


def _cover(rng: np.random.Generator, label: int, height: int, width: int) -> Image.Image:
    """Draw a new shape as its coverage of each pixel: 8-bit gray, 255 is all."""
    outline = OUTLINES[CLASS_NAMES[label]]()
    radius = rng.uniform(0.18, 0.34) * min(height, width)
    stretch = rng.uniform(0.75, 1.0)
    turn = rng.uniform(0, 2 * pi)
    center_y, center_x = rng.uniform(0, height), rng.uniform(0, width)
    points = [
        (
            OVERSAMPLING * (center_x + radius * (x * cos(turn) - stretch * y * sin(turn))),
            OVERSAMPLING * (center_y + radius * (x * sin(turn) + stretch * y * cos(turn))),
        )
        for x, y in outline
    ]
    fine = Image.new("L", (width * OVERSAMPLING, height * OVERSAMPLING))
    ImageDraw.Draw(fine).polygon(points, fill=255)
    return fine.reduce(OVERSAMPLING)


def _lay(rng: np.random.Generator, image: Floats, cover: Image.Image, fill: Floats) -> None:
    """Paint a textured shape with a soft shadow on the image, in place."""
    height, width = image.shape[:2]
    down, right = (rng.integers(-1, 2, size=2) * max(1, min(height, width) // 40)).tolist()
    soft = cover.filter(ImageFilter.GaussianBlur(0.02 * min(height, width)))
    shadow = np.asarray(soft.rotate(0, translate=(right, down)), dtype=np.float32) / 255
    image *= (1 - rng.uniform(0.2, 0.5) * shadow)[..., None]
    alpha = np.asarray(cover, dtype=np.float32)[..., None] / 255
    image += alpha * (fill - image)


def _disc() -> Points:
    return [(cos(turn * pi / 24), sin(turn * pi / 24)) for turn in range(48)]


def _square() -> Points:
    return [(0.8, 0.8), (-0.8, 0.8), (-0.8, -0.8), (0.8, -0.8)]


def _triangle() -> Points:
    return [(1.1 * cos(turn * 2 * pi / 3), 1.1 * sin(turn * 2 * pi / 3)) for turn in range(3)]


def _star() -> Points:
    radii = (1.15, 0.5)
    return [(radii[tip % 2] * cos(tip * pi / 5), radii[tip % 2] * sin(tip * pi / 5)) for tip in range(10)]


OUTLINES: dict[str, Callable[[], Points]] = {
    "disc": _disc,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
}
