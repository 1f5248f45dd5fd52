"""The recipe of a plain hand-written loop, that of `benchmarks/plain_loop.py`, for any data set.

Cross-entropy, AdamW with 1e-3 for all parameters, poly schedule with power 0.9, batch 8, crops of 320 x 320 of images
scaled by 0.5 to 2, flipped, brightened; the last weights are tested. Crops are no larger than the median image.
"""

import random

import torch
from torch import Tensor
from torch.nn import functional as F

from recipe_peers.datasets import VOID, DataSet, Pair
from recipe_peers.loop import Peer
from recipe_peers.sizes import median_size, random_crop

CROP = 320


class Plain(Peer):
    """Crops, cross-entropy, AdamW and poly."""

    def __init__(self, data: DataSet, precision: str) -> None:
        super().__init__(data, precision)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, weight_decay=0.01)
        self.crop = [min(CROP, side) for side in median_size(data.pairs["train"])]

    def sample(self, image: Tensor, mask: Tensor) -> Pair:
        """Scale, crop, flip and brighten."""
        scale = random.uniform(0.5, 2.0)
        size = [round(side * scale) for side in mask.shape]
        image = F.interpolate(image[None].float(), size=size, mode="bilinear", align_corners=False)[0]
        image, mask = random_crop(image, F.interpolate(mask[None, None], size=size, mode="nearest")[0, 0], self.crop)
        if random.random() < 0.5:
            image, mask = image.flip(-1), mask.flip(-1)
        return (image * random.uniform(0.8, 1.2)).clamp(0, 255), mask

    def loss(self, images: Tensor, masks: Tensor) -> Tensor:
        """Return the cross-entropy."""
        return F.cross_entropy(self.model(images), masks, ignore_index=VOID)

    def set_progress(self, progress: float) -> None:
        """Decay the learning rate to 0."""
        self.optimizer.param_groups[0]["lr"] = 1e-3 * max(0.0, 1 - progress) ** 0.9
