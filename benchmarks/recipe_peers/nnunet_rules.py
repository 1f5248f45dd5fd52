"""The rules of nnU-Net v2 for a pretrained timm backbone.

A patch is the median image, rounded up to a multiple of 32; the batch is what nnU-Net's memory reference allows (12
patches of 512 x 512), at most 5 % of the training pixels, and 2 at least. Batches are drawn with replacement, and a
third of each is centered on a pixel of a random foreground class. SGD with 0.01, Nesterov momentum 0.99 and weight
decay 3e-5, poly schedule with power 0.9, gradients clipped at 12. Cross-entropy and Dice of the whole batch, without
background, on the outputs of all resolutions but the coarsest, weighted 1, 1/2, 1/4, ... The last weights are tested.

Checked against the source of nnUNetTrainer (rates, oversampling, transforms and their probabilities) and of the planner
(batch size). Different: the network is the backbone with our U-Net and its deep supervision, and images are normalized
as the backbone wants; auxiliary logits are enlarged to the mask and not the mask made smaller; rates follow the time at
every step and not at every 250th; what a warp uncovers is void and not background; no validations, of which the first
would come after 250 steps; no ensemble of folds, and no mirrored copies at the test but in `nnunet+mirror`.
"""

import random
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from recipe_peers.datasets import VOID, DataSet, Pair
from recipe_peers.loop import Peer
from recipe_peers.nnunet_augmentation import augment
from recipe_peers.sizes import median_size, random_crop

REFERENCE = 12 * 512 * 512  # pixels of a batch for which nnU-Net counts 8 GB
BACKGROUNDS = ("background", "soil")  # names of a first class that Dice leaves out


class NnunetRules(Peer):
    """Patches and batches by rule, SGD, Dice with cross-entropy and deep supervision."""

    head_options = {"deep_supervision": True}
    max_norm = 12.0

    def __init__(self, data: DataSet, precision: str) -> None:
        super().__init__(data, precision)
        pairs = data.pairs["train"]
        height, width = median_size(pairs)
        self.patch = (height + -height % 32, width + -width % 32)
        pixels = self.patch[0] * self.patch[1]
        share = round(0.05 * len(pairs) * height * width / pixels)
        self.batch_size = max(2, min(round(REFERENCE / pixels), share))
        self.first = 1 if data.classes[0] in BACKGROUNDS else 0
        self.drawn = 0
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=0.01, momentum=0.99, nesterov=True, weight_decay=3e-5
        )

    def batches(self) -> Iterator[list[int]]:
        """Draw the 250 batches that nnU-Net calls an epoch."""
        count = len(self.data.pairs["train"])
        return (random.choices(range(count), k=self.batch_size) for _ in range(250))

    def sample(self, image: Tensor, mask: Tensor) -> Pair:
        """Take a patch, in the last third of a batch one with foreground, and augment it."""
        place, self.drawn = self.drawn % self.batch_size, self.drawn + 1
        if place >= round(self.batch_size * (1 - 0.33)):
            image, mask = self._around_foreground(image, mask)
        return augment(*random_crop(image.float(), mask, self.patch))

    def _around_foreground(self, image: Tensor, mask: Tensor) -> Pair:
        """Return the patch around a pixel, or all of the image along the sides that are smaller than a patch."""
        present = [label for label in range(self.classes) if label >= self.first and (mask == label).any()]
        if not present:
            return image, mask
        pixels = (mask == random.choice(present)).nonzero()
        center = pixels[random.randrange(len(pixels))].tolist()
        top, left = (
            max(0, min(at - side // 2, length - side))
            for at, side, length in zip(center, self.patch, mask.shape, strict=True)
        )
        rows, columns = slice(top, top + self.patch[0]), slice(left, left + self.patch[1])
        return image[:, rows, columns], mask[rows, columns]

    def loss(self, images: Tensor, masks: Tensor) -> Tensor:
        """Return the weighted mean over the resolutions."""
        final, *others = self.model(images, auxiliary=True)
        outputs = [final, *reversed(others)][:-1]  # fine to coarse
        weights = [0.5**level for level in range(len(outputs))]
        losses = [
            weight * self._one_loss(logits.float(), masks) for weight, logits in zip(weights, outputs, strict=True)
        ]
        return torch.stack(losses).sum() / sum(weights)

    def _one_loss(self, logits: Tensor, masks: Tensor) -> Tensor:
        valid = masks != VOID
        truth = F.one_hot(masks.where(valid, 0), self.classes).permute(0, 3, 1, 2) * valid[:, None]
        scores = logits.softmax(1) * valid[:, None]
        both, total = ((scores * truth).sum((0, 2, 3)), (scores + truth).sum((0, 2, 3)))
        dice = (2 * both + 1e-5) / (total + 1e-5)
        return F.cross_entropy(logits, masks, ignore_index=VOID) - dice[self.first :].mean()

    def set_progress(self, progress: float) -> None:
        """Decay the learning rate to 0."""
        self.optimizer.param_groups[0]["lr"] = 0.01 * max(0.0, 1 - progress) ** 0.9


class NnunetMirrored(NnunetRules):
    """The same, with the mean over mirrored copies of the image at the test, as nnU-Net predicts by default."""

    @torch.inference_mode()
    def predict(self, image: Tensor) -> Tensor:
        """Return the class of each pixel by the mean probability over both axes, mirrored or not."""
        self.model.eval()
        pixels = self.model.normalize(image[None])
        flips: tuple[list[int], ...] = ([], [-1], [-2], [-2, -1])
        scores = [self.model(pixels.flip(axes)).softmax(1).flip(axes) for axes in flips]
        return torch.stack(scores).sum(0).argmax(1)[0]
