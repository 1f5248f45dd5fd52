"""The recipe of the CamVid notebook of segmentation_models_pytorch (examples/camvid_segmentation_multiclass.ipynb).

FPN, Dice loss over all classes, Adam with 2e-4, cosine annealing over the steps to 1e-5, a validation after every
epoch, the last weights are tested. Crops of 320 x 320 by the notebook's chain of albumentations: flip, scale 0.5 to
1.5 with shifts of a tenth, noise, perspective, and one of each of three lists of color and sharpness operations.

Checked against the notebook: its chain, loss, optimizer, schedule and head. The loss is smp's own class and the chain
runs in albumentations itself. Different: void is left out of the loss (the notebook gives it a class of its own); crops
are no larger than the median image; batch 8, as in the notebook's predecessor, instead of 32, because 32 leave a dozen
steps; the validation is the IoU over the set.
"""

import math

import albumentations as A
import numpy as np
import torch
from segmentation_models_pytorch.losses import DiceLoss
from torch import Tensor

from recipe_peers.datasets import VOID, DataSet, Pair
from recipe_peers.loop import Peer
from recipe_peers.sizes import median_size

HIGH, LOW = 2e-4, 1e-5


class SmpExample(Peer):
    """FPN, Dice, Adam and cosine."""

    head = "fpn"

    def __init__(self, data: DataSet, precision: str) -> None:
        super().__init__(data, precision)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=HIGH)
        height, width = (min(320, side) for side in median_size(data.pairs["train"]))
        self.transform = A.Compose([A.HorizontalFlip(p=0.5), *_geometry(height, width), *_colors()])
        self.dice = DiceLoss("multiclass", from_logits=True, ignore_index=VOID)

    def sample(self, image: Tensor, mask: Tensor) -> Pair:
        """Run the chain."""
        changed = self.transform(image=np.ascontiguousarray(image.permute(1, 2, 0).numpy()), mask=mask.numpy())
        return torch.from_numpy(changed["image"]).permute(2, 0, 1).float(), torch.from_numpy(changed["mask"])

    def loss(self, images: Tensor, masks: Tensor) -> Tensor:
        """Return the Dice loss, mean over the classes that the batch has."""
        loss: Tensor = self.dice(self.model(images).float(), masks)
        return loss

    def set_progress(self, progress: float) -> None:
        """Anneal from the high to the low rate."""
        self.optimizer.param_groups[0]["lr"] = LOW + (HIGH - LOW) * (1 + math.cos(math.pi * min(1.0, progress))) / 2

    def end_epoch(self) -> None:
        """Score the val split."""
        self.score("val")


def _geometry(height: int, width: int) -> list[A.BasicTransform]:
    void = {"border_mode": 0, "fill_mask": VOID}
    return [
        A.ShiftScaleRotate(scale_limit=0.5, rotate_limit=0, shift_limit=0.1, p=1, **void),
        A.PadIfNeeded(height, width, **void),
        A.RandomCrop(height, width),
        A.GaussNoise(p=0.2),
        A.Perspective(p=0.5, fill_mask=VOID),
    ]


def _colors() -> list[A.BaseCompose]:
    light = [A.CLAHE(p=1), A.RandomBrightnessContrast(p=1), A.RandomGamma(p=1)]
    sharpness = [A.Sharpen(p=1), A.Blur(blur_limit=3, p=1), A.MotionBlur(blur_limit=3, p=1)]
    color = [A.RandomBrightnessContrast(p=1), A.HueSaturationValue(p=1)]
    return [A.OneOf(choices, p=0.9) for choices in (light, sharpness, color)]
