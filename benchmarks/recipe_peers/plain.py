"""The recipe of a plain hand-written loop, that of `benchmarks/plain_loop.py`, for any data set.

Cross-entropy, AdamW with 1e-3 for all parameters, poly schedule with power 0.9, batch 8, crops of 320 x 320 of images
scaled by 0.5 to 2, flipped, brightened; the last weights are tested. Crops are no larger than the median image.
"""

import random
import statistics

import torch
from torch import Tensor
from torch.nn import functional as F

from recipe_peers.datasets import VOID, DataSet, Pair
from recipe_peers.loop import Peer

CROP = 320


class Plain(Peer):
    """Crops, cross-entropy, AdamW and poly."""

    def __init__(self, data: DataSet, precision: str) -> None:
        super().__init__(data, precision)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, weight_decay=0.01)
        sizes = zip(*(mask.shape for _, mask in data.pairs["train"]), strict=True)
        self.crop = [min(CROP, int(statistics.median(sides))) for sides in sizes]

    def sample(self, image: Tensor, mask: Tensor) -> Pair:
        """Scale, crop, flip and brighten."""
        scale = random.uniform(0.5, 2.0)
        size = [round(side * scale) for side in mask.shape]
        image = F.interpolate(image[None].float(), size=size, mode="bilinear", align_corners=False)[0]
        mask = F.interpolate(mask[None, None], size=size, mode="nearest")[0, 0]
        down, right = (max(0, side - length) for side, length in zip(self.crop, size, strict=True))
        image, mask = F.pad(image, (0, right, 0, down), value=127.5), F.pad(mask, (0, right, 0, down), value=VOID)
        (height, width), (top, left) = self.crop, self._corner(mask)
        image, mask = image[:, top : top + height, left : left + width], mask[top : top + height, left : left + width]
        if random.random() < 0.5:
            image, mask = image.flip(-1), mask.flip(-1)
        return (image * random.uniform(0.8, 1.2)).clamp(0, 255), mask

    def _corner(self, mask: Tensor) -> list[int]:
        return [random.randint(0, length - side) for length, side in zip(mask.shape, self.crop, strict=True)]

    def loss(self, images: Tensor, masks: Tensor) -> Tensor:
        """Return the cross-entropy."""
        return F.cross_entropy(self.model(images), masks, ignore_index=VOID)

    def set_progress(self, progress: float) -> None:
        """Decay the learning rate to 0."""
        self.optimizer.param_groups[0]["lr"] = 1e-3 * max(0.0, 1 - progress) ** 0.9
