"""The recipe of fastai's `unet_learner(...).fine_tune(...)`, with its defaults.

Whole images of one size, batch 8; `aug_transforms()`: flip, and with a probability of 0.75 each, perspective by 0.2,
rotation by 10 degrees, zoom to 1.1, brightness and contrast by 0.2, borders reflected. First one epoch with the
backbone frozen but for its batch norms, in one cycle that rises to 2e-3 nearly to its end. Then everything, in one
cycle up to 1e-3 for the head, and a tenth and a hundredth of it for the upper and the lower half of the backbone;
`div` 5, `pct_start` 0.3, momentum from 0.95 to 0.85 and back. Adam with decoupled weight decay of 0.01 but for norms
and biases, beta 0.99, epsilon 1e-5. The last weights are tested.

Checked against the source of `Learner.fine_tune`, `fit_one_cycle`, `aug_transforms` and `DynamicUnet`. Different: the
U-Net is ours (smp's) instead of DynamicUnet, whose decoder is several times as wide and needs an encoder that is a list
of layers; the backbone has two groups as fastai's ResNets have, where any timm backbone has one; perspective is a tilt
in both axes, drawn at random; the frozen epoch takes at most half of the time; batches are smaller where images are
large; images of other sizes are tested at their own size.
"""

import math
import random

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recipe_peers.datasets import VOID, DataSet, Pair
from recipe_peers.loop import Peer
from recipe_peers.sizes import batch_of, median_size, resized
from recipe_peers.warp import rotation, tilt, warp, zoom

FROZEN_LR, LR = 2e-3, 1e-3
SCALES = (0.01, 0.1, 1.0)  # of the learning rate: lower and upper half of the backbone, the rest


class FastaiFineTune(Peer):
    """A frozen epoch, then discriminative learning rates, each with one cycle."""

    def __init__(self, data: DataSet, precision: str) -> None:
        super().__init__(data, precision)
        self.size = median_size(data.pairs["train"])
        self.batch_size = batch_of(self.size)
        self.epoch_steps = max(1, len(data.pairs["train"]) // self.batch_size)
        self.steps, self.frozen_until = 0, 0.0
        parts = self._parts()
        self.backbone = [weight for part in parts[:2] for weight in part if weight.dim() > 1]
        groups = [
            {"params": weights, "scale": scale, "weight_decay": 0.01 if decays else 0.0}
            for part, scale in zip(parts, SCALES, strict=True)
            for decays in (True, False)
            if (weights := [weight for weight in part if (weight.dim() > 1) == decays])
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=FROZEN_LR, betas=(0.95, 0.99), eps=1e-5)
        for weight in self.backbone:
            weight.requires_grad_(False)

    def _parts(self) -> list[list[nn.Parameter]]:
        named, groups = dict(self.model.named_parameters()), self.model.layer_groups()
        halves = (groups[: len(groups) // 2], groups[len(groups) // 2 :])
        backbone = [[named.pop(name) for group in half for name in group] for half in halves]
        unused = self.model.unused_parameters()
        return [*backbone, [weight for name, weight in named.items() if name not in unused]]

    def sample(self, image: Tensor, mask: Tensor) -> Pair:
        """Resize, warp and change the light."""
        image, mask = resized(image, mask, self.size)
        matrix = torch.eye(3)
        for change in (
            zoom(random.uniform(1, 1.1), random.uniform(-1, 1), random.uniform(-1, 1)),
            rotation(random.uniform(-10, 10), self.size),
            tilt(random.uniform(-0.2, 0.2), random.uniform(-0.2, 0.2)),
        ):
            matrix = change @ matrix if random.random() < 0.75 else matrix
        image, mask = warp(image, mask, matrix, "reflection")
        if random.random() < 0.5:
            image, mask = image.flip(-1), mask.flip(-1)
        return _relit(image), mask

    def loss(self, images: Tensor, masks: Tensor) -> Tensor:
        """Return the cross-entropy."""
        return F.cross_entropy(self.model(images), masks, ignore_index=VOID)

    def set_progress(self, progress: float) -> None:
        """Set the rates and momenta of the cycle that the step is in."""
        self.steps += 1
        if self.backbone and (self.steps > self.epoch_steps or progress >= 0.5):
            for weight in self.backbone:
                weight.requires_grad_(True)
            self.backbone, self.frozen_until = [], progress
        if self.backbone:
            self._cycle(max((self.steps - 1) / self.epoch_steps, progress * 2), FROZEN_LR, 25.0, 0.99, equal=True)
        else:
            self._cycle((progress - self.frozen_until) / (1 - self.frozen_until), LR, 5.0, 0.3, equal=False)

    def _cycle(self, part: float, high: float, div: float, start: float, equal: bool) -> None:
        up = part < start
        done = part / start if up else (part - start) / (1 - start)
        share = (1 - math.cos(math.pi * min(1.0, done))) / 2  # of the way from one value to the next
        ends = (high / div, high) if up else (high, high / 1e5)
        momenta = (0.95, 0.85) if up else (0.85, 0.95)
        for group in self.optimizer.param_groups:
            scale = max(0.1, group["scale"]) if equal else group["scale"]
            group["lr"] = scale * (ends[0] + share * (ends[1] - ends[0]))
            group["betas"] = (momenta[0] + share * (momenta[1] - momenta[0]), 0.99)

    def end_epoch(self) -> None:
        """Score the val split."""
        self.score("val")


def _relit(image: Tensor) -> Tensor:
    """Return the image with another brightness and contrast, which are changed on the logits of the values."""
    logits = torch.logit(image / 255, eps=1e-3)
    if random.random() < 0.75:
        change = random.uniform(0.4, 0.6)
        logits = logits + math.log(change / (1 - change))
    if random.random() < 0.75:
        logits = logits * math.exp(random.uniform(math.log(0.8), -math.log(0.8)))
    return torch.sigmoid(logits) * 255
