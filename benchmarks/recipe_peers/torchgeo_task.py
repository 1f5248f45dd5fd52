"""The recipe of torchgeo's SemanticSegmentationTask with its defaults, on the augmentation of its land cover data.

U-Net, cross-entropy, AdamW with 1e-3 for all parameters, ReduceLROnPlateau on the loss of the val split with patience
10, validated after every epoch; the last weights are tested. Random crops of at most 512 x 512, flips in both axes,
rotation by up to 90 degrees, sharpness, color jitter by 0.1.

Checked against torchgeo's trainers/segmentation.py and trainers/base.py (model, loss, optimizer, schedule, monitor),
and datamodules/landcoverai.py (augmentation and its probabilities). Different: kornia's operations are written with
torch and torchvision; what a rotation uncovers is void and not class 0; batch 8 at most instead of 64.
"""

import random

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

from recipe_peers.datasets import VOID, DataSet, Pair
from recipe_peers.loop import Peer
from recipe_peers.sizes import batch_of, median_size, random_crop
from recipe_peers.warp import rotation, warp

CROP = 512


class TorchgeoTask(Peer):
    """Cross-entropy, AdamW and a plateau."""

    def __init__(self, data: DataSet, precision: str) -> None:
        super().__init__(data, precision)
        height, width = (min(CROP, side) for side in median_size(data.pairs["train"]))
        self.crop = (height, width)
        self.batch_size = batch_of(self.crop)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(self.optimizer, patience=10)
        self.jitter = v2.ColorJitter(brightness=0.1, contrast=0.1, saturation=0.1, hue=0.1)

    def sample(self, image: Tensor, mask: Tensor) -> Pair:
        """Crop, rotate, flip, sharpen and recolor."""
        image, mask = random_crop(image.float(), mask, self.crop)
        if random.random() < 0.5:
            image, mask = warp(image, mask, rotation(random.uniform(-90, 90), self.crop))
        for axis in (-1, -2):
            if random.random() < 0.5:
                image, mask = image.flip(axis), mask.flip(axis)
        if random.random() < 0.5:
            image = v2.functional.adjust_sharpness(image / 255, 1 + random.uniform(0, 0.5)) * 255
        if random.random() < 0.5:
            image = self.jitter(image.clamp(0, 255) / 255) * 255
        return image.clamp(0, 255), mask

    def loss(self, images: Tensor, masks: Tensor) -> Tensor:
        """Return the cross-entropy."""
        return F.cross_entropy(self.model(images), masks, ignore_index=VOID)

    @torch.inference_mode()
    def end_epoch(self) -> None:
        """Lower the learning rate if the loss of the val split has stopped falling."""
        self.model.eval()
        total = 0.0
        for image, mask in self.data.pairs["val"]:
            with self.autocast():
                total += float(self.loss(self.model.normalize(image[None]), mask[None].long()))
        self.plateau.step(total / len(self.data.pairs["val"]))
