"""Sizes of the images of a data set, and of what recipes train on."""

import random
import statistics
from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from recipe_peers.datasets import VOID, Pair

PIXELS = 8 * 360 * 480  # of a batch at most, 8 images of CamVid: what a step with whole images may cost


def median_size(pairs: Sequence[Pair]) -> tuple[int, int]:
    """Return the median height and the median width."""
    heights, widths = zip(*(mask.shape for _, mask in pairs), strict=True)
    return int(statistics.median(heights)), int(statistics.median(widths))


def batch_of(size: tuple[int, int], most: int = 8) -> int:
    """Return the images in a batch of whole images: fewer where they are large, but 2, as batch norms need."""
    return max(2, min(most, PIXELS // (size[0] * size[1])))


def resized(image: Tensor, mask: Tensor, size: tuple[int, int]) -> Pair:
    """Return the image, as float, and the mask at a size."""
    if tuple(mask.shape) == size:
        return image.float(), mask
    image = F.interpolate(image[None].float(), size=size, mode="bilinear", antialias=True, align_corners=False)[0]
    return image.clamp(0, 255), F.interpolate(mask[None, None], size=size, mode="nearest-exact")[0, 0]


def random_crop(image: Tensor, mask: Tensor, size: Sequence[int]) -> Pair:
    """Return a random crop; images that are too small are padded with gray and `VOID`."""
    down, right = (max(0, side - length) for side, length in zip(size, mask.shape, strict=True))
    image, mask = F.pad(image, (0, right, 0, down), value=127.5), F.pad(mask, (0, right, 0, down), value=VOID)
    top, left = (random.randint(0, length - side) for side, length in zip(size, mask.shape, strict=True))
    return image[:, top : top + size[0], left : left + size[1]], mask[top : top + size[0], left : left + size[1]]
