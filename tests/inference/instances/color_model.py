"""A model of objects that can be checked by hand: its objects are the connected areas of a color."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.data.masks.components import find_components
from finetune.instances import Objects, objects_of
from finetune.models import InstanceSegmenter
from finetune.models.instance_heads import InstanceHead

CLASSES = ["red", "green"]
TINY = 5  # pixels of an object that the head is unsure of


class ColorHead(InstanceHead):
    """The areas in which a channel is bright, as objects of the class of that channel."""

    def __init__(self, strides: Sequence[int], channels: int, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.unused = nn.Conv2d(channels, 1, 1)

    def losses(self, maps: Sequence[Tensor], targets: Sequence[Objects]) -> dict[str, Tensor]:
        """Return no loss."""
        return {}

    def detect(self, maps: Sequence[Tensor], size: tuple[int, int]) -> list[Objects]:
        """Return the areas."""
        scale = -(-size[0] // maps[0].shape[-2])
        images = F.interpolate(maps[0], scale_factor=scale)[:, :, : size[0], : size[1]]
        return [self._detect(image.cpu().numpy() > 0) for image in images]

    def _detect(self, bright: np.ndarray) -> Objects:
        masks, labels = [np.zeros((0, *bright.shape[1:]), dtype=bool)], list[int]()
        for label in range(self.classes):
            components = find_components(bright[label].astype(np.uint8))
            found = [components.of_run[components.runs] == index for index in np.flatnonzero(components.labels)]
            masks += [each[None] for each in found]
            labels += [label] * len(found)
        joined = torch.from_numpy(np.concatenate(masks))
        scores = torch.where(joined.flatten(1).sum(1) > TINY, 0.9, 0.3)
        return objects_of(joined, torch.tensor(labels, dtype=torch.int64), scores)


class ColorModel(InstanceSegmenter):
    """A model whose head sees the image itself."""

    def maps(self, images: Tensor) -> list[Tensor]:
        """Return the image."""
        return [images]


def image_of(size: tuple[int, int], *discs: tuple[float, float, float, int]) -> Tensor:
    """Return a black image (3, H, W), uint8, with discs: row, column, radius and channel of each."""
    image = torch.zeros(3, *size, dtype=torch.uint8)
    rows, columns = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    for row, column, radius, channel in discs:
        image[channel][(rows - row) ** 2 + (columns - column) ** 2 <= radius**2] = 255
    return image
