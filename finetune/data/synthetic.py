"""Synthetic images: a data set without files, for trying things out."""

from collections.abc import Callable
from math import cos, pi, sin

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor
from torch.utils.data import Dataset

from finetune.data.dataset import Sample, SampleKey, counted_generator
from finetune.data.synthetic_textures import FILLS, GROUNDS, Floats, light, surface
from finetune.data.transforms import Transform

CLASS_NAMES = ("background", "disc", "square", "triangle", "star")
SPLITS = ("train", "val", "test")
FINE = 4  # each pixel is drawn as 4 x 4, for smooth edges

Points = list[tuple[float, float]]


class SyntheticDataset(Dataset[Sample]):
    """Textured shapes on textured ground; the class is the shape, and each shape has its texture.

    Color, light, size and position say nothing about the class. Every picture is a pure function of (seed, split,
    index), so a larger count only adds pictures, and the splits share none.

    Args:
        count: number of pictures.
        size: height and width, or (height, width), pixels.
        seed: of the pictures and of the transform.
        split: "train", "val" or "test".
        transform: called as `transform(image, mask, generator)`; None returns the pictures as drawn.
        ignore_index: not drawn; for the same arguments as a dataset on disk.
    """

    def __init__(
        self,
        count: int = 200,
        size: int | tuple[int, int] = 128,
        seed: int = 0,
        split: str = "train",
        transform: Transform | None = None,
        ignore_index: int = 255,
    ) -> None:
        if count < 1:
            raise ValueError(f"count={count}: expected at least 1 picture.")
        if split not in SPLITS:
            raise ValueError(f"split='{split}': expected one of {', '.join(SPLITS)}.")
        self.count = count
        self.size = size
        self.seed = seed
        self.split = split
        self.transform = transform
        self.ignore_index = ignore_index
        self.names = [f"{split}_{index:05d}" for index in range(count)]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, key: int | SampleKey) -> Sample:
        epoch, index = key if isinstance(key, SampleKey) else (0, key)
        if not 0 <= index < self.count:
            raise IndexError(f"index {index} of {self.count} synthetic images")
        image, mask = draw(self.size, self.seed, self.split, index)
        if self.transform is not None:
            image, mask = self.transform(image, mask, counted_generator(self.seed, epoch, index))
        return {"image": image, "mask": mask, "index": index}


def draw(
    size: int | tuple[int, int] = 128, seed: int = 0, split: str = "train", index: int = 0
) -> tuple[Tensor, Tensor]:
    """Draw one picture.

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
    """How much of each pixel a new shape covers: 8-bit gray, 255 is all."""
    outline = OUTLINES[CLASS_NAMES[label]]()
    radius = rng.uniform(0.18, 0.34) * min(height, width)
    stretch = rng.uniform(0.75, 1.0)
    turn = rng.uniform(0, 2 * pi)
    center_y, center_x = rng.uniform(0, height), rng.uniform(0, width)
    points = [
        (
            FINE * (center_x + radius * (x * cos(turn) - stretch * y * sin(turn))),
            FINE * (center_y + radius * (x * sin(turn) + stretch * y * cos(turn))),
        )
        for x, y in outline
    ]
    fine = Image.new("L", (width * FINE, height * FINE))
    ImageDraw.Draw(fine).polygon(points, fill=255)
    return fine.reduce(FINE)


def _lay(rng: np.random.Generator, image: Floats, cover: Image.Image, fill: Floats) -> None:
    """Put a textured shape with a soft shadow on the picture, in place."""
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
