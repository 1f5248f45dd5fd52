"""YOLACT: detections whose masks are sums of prototypes of the image; small and fast."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import batched_nms, clip_boxes_to_image, sigmoid_focal_loss

from finetune.instances import Objects
from finetune.models.heads.validation import check_counts, check_fraction, check_most, check_positive
from finetune.models.instance_heads.anchors import NEITHER, grid_anchors, match_anchors
from finetune.models.instance_heads.instance_head import MOST_DETECTIONS, InstanceHead
from finetune.models.instance_heads.prototype_masks import coverage, draw_masks, mask_losses

COARSER = 1  # levels beyond those of the feature pyramid
WEIGHTS = {"class": 1.0, "box": 1.5, "mask": 6.125, "semantic": 1.0}  # of the losses, as in the authors' code
MOST_MASKS = 100  # of the positive anchors of an image, drawn at random: the mask loss of thousands needs gigabytes
CANDIDATES = 10  # boxes for each of `max_detections` that are compared with each other
PRIOR = 0.01  # first score of every anchor, so that thousands of background anchors do not outweigh the others
CODER = BoxCoder((10.0, 10.0, 5.0, 5.0))  # so that corrections are about as large as 1


class Yolact(InstanceHead):
    """Predicts scores, a box and coefficients for each anchor of five levels, with the same weights on each.

    Classes have a focal loss, which needs no mining of negatives. Duplicates are removed by exact non-maximum
    suppression within a class: the paper's Fast NMS also removes a box that overlaps only removed ones.

    Args:
        strides: of the maps, fine to coarse.
        channels: of each map.
        classes: without the background.
        anchor_sizes: square root of the area of the anchors of each level, pixels; one more level than there are maps.
        anchor_ratios: heights of the anchors as multiples of their widths.
        prototypes: number of prototypes.
        max_detections: most objects of an image.
        min_score: least score of an object.
        nms: IoU of two boxes of a class above which that of the lower score is removed.

    Raises:
        ValueError: an option is out of its range.

    Source: Bolya et al. 2019, https://arxiv.org/abs/1904.02689; Lin et al. 2017, https://arxiv.org/abs/1708.02002
    """

    terms = tuple(WEIGHTS)

    def __init__(
        self,
        strides: Sequence[int],
        channels: int,
        classes: int,
        *,
        anchor_sizes: Sequence[float] = (12, 24, 48, 96, 192),
        anchor_ratios: Sequence[float] = (0.5, 1.0, 2.0),
        prototypes: int = 32,
        max_detections: int = 100,
        min_score: float = 0.05,
        nms: float = 0.5,
    ) -> None:
        super().__init__()
        self.strides = (*strides, *(strides[-1] << step for step in range(1, COARSER + 1)))
        check_positive(len(self.strides), anchor_sizes=anchor_sizes)
        check_positive(None, anchor_ratios=anchor_ratios)
        check_counts(prototypes=prototypes, max_detections=max_detections)
        check_most(MOST_DETECTIONS, max_detections=max_detections)
        check_fraction(min_score=min_score, nms=nms)
        self.anchor_sizes, self.anchor_ratios = tuple(anchor_sizes), tuple(anchor_ratios)
        self.max_detections, self.min_score, self.nms = max_detections, min_score, nms
        self._parts = [classes, 4, prototypes]  # of the outputs of an anchor
        self.coarser = nn.ModuleList(nn.Conv2d(channels, channels, 3, stride=2, padding=1) for _ in range(COARSER))
        outputs = nn.Conv2d(channels, len(anchor_ratios) * sum(self._parts), 3, padding=1)
        self.anchors = _convolutions(channels, 1, outputs)
        self.prototypes = _convolutions(channels, 2, nn.Conv2d(channels, prototypes, 1))
        self.semantic = nn.Conv2d(channels, classes, 1)
        biases = outputs.state_dict()["bias"].view(len(anchor_ratios), -1)
        biases[:, :classes] = -math.log(1 / PRIOR - 1)

    def losses(self, maps: Sequence[Tensor], targets: Sequence[Objects]) -> dict[str, Tensor]:
        """Return the losses of classes, boxes and masks, and that of the semantic map, which only training has.

        The first three are means over the positive anchors of this batch, the last over its pixels. With several ranks
        a step follows the mean of their means: an anchor counts for more on a rank that has fewer.
        """
        anchors, *outputs = self._outputs(maps)
        outputs.append(self.semantic(maps[0]).float())
        parts = [
            self._image_losses(anchors, [output[image] for output in outputs], target)
            for image, target in enumerate(targets)
        ]
        positives = max(1, sum(count for _, count in parts))
        sums = torch.stack([sums for sums, _ in parts]).sum(0)
        divisors = (positives, positives, positives, len(targets))
        return {
            name: weight * total / divisor
            for (name, weight), total, divisor in zip(WEIGHTS.items(), sums, divisors, strict=True)
        }

    def _image_losses(self, anchors: Tensor, outputs: Sequence[Tensor], target: Objects) -> tuple[Tensor, int]:
        """Return the losses of an image (4,), summed over its positive anchors, and the number of these."""
        logits, corrections, coefficients, prototypes, semantic = outputs
        matched = match_anchors(anchors, target.boxes, target.ignored)
        positive = (matched >= 0).nonzero().flatten()
        objects = matched[positive]
        truth = torch.zeros_like(logits)
        truth[positive, target.labels[objects]] = 1
        scores = sigmoid_focal_loss(logits, truth)[matched != NEITHER].sum()
        wanted = CODER.encode_single(target.boxes[objects], anchors[positive])
        boxes = F.smooth_l1_loss(corrections[positive], wanted, reduction="sum")

        stride, cells = self.strides[0], (prototypes.shape[-2], prototypes.shape[-1])
        ignored = torch.zeros_like(target.masks.any(0)) if target.ignored is None else target.ignored
        valid = coverage(~ignored[None], stride, cells)[0]
        chosen = torch.randperm(len(positive), device=positive.device)[:MOST_MASKS]
        distinct, places = torch.unique(objects[chosen], return_inverse=True)
        masks = torch.einsum("np,phw->nhw", coefficients[positive[chosen]], prototypes).float()
        shares = coverage(target.masks[distinct], stride, cells)[places]
        each = mask_losses(masks, shares, target.boxes[objects[chosen]] / stride, valid)
        classes = torch.stack([target.masks[target.labels == label].any(0) for label in range(len(semantic))])
        pixels = F.binary_cross_entropy_with_logits(
            semantic, coverage(classes, stride, cells), valid.expand_as(semantic), reduction="sum"
        ) / valid.sum().clamp(min=1)
        return torch.stack([scores, boxes, each.sum() * len(positive) / max(1, len(chosen)), pixels]), len(positive)

    def detect(self, maps: Sequence[Tensor], size: tuple[int, int]) -> list[Objects]:
        """Return the objects of each image, by falling score, none of them with an empty mask."""
        found = []
        candidates = self.candidates(maps, size, CANDIDATES * self.max_detections)
        for boxes, scores, labels, coefficients, prototypes in zip(*candidates, strict=True):
            kept = (scores > self.min_score).nonzero().flatten()
            kept = kept[batched_nms(boxes[kept], scores[kept], labels[kept], self.nms)[: self.max_detections]]
            masks = draw_masks(coefficients[kept], prototypes, boxes[kept], self.strides[0], size)
            found.append(Objects(masks, labels[kept], boxes[kept], scores[kept])[masks.flatten(1).any(1)])
        return found

    def candidates(
        self, maps: Sequence[Tensor], size: tuple[int, int], count: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return the k boxes of the highest scores in each image, each with its best class, duplicates included.

        Args:
            maps: as for `detect`.
            size: height and width of the images without padding.
            count: k.

        Returns:
            boxes (B, k, 4), pixels, inside the image; scores (B, k), falling, 0 for boxes without an area and if there
            are fewer than k; labels (B, k); coefficients (B, k, P) of the prototypes (B, P, h, w).
        """
        anchors, logits, corrections, coefficients, prototypes = self._outputs(maps)
        repeated = anchors.repeat(logits.shape[0], 1)
        boxes = CODER.decode_single(corrections.flatten(0, 1), repeated).view_as(corrections)
        boxes = clip_boxes_to_image(boxes, size)
        scores, labels = logits.sigmoid().max(dim=-1)
        scores = scores * (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)
        scores, index = F.pad(scores, (0, count)).topk(count)
        index = index.clamp(max=labels.shape[1] - 1)
        return take(boxes, index), scores, labels.gather(1, index), take(coefficients, index), prototypes

    def _outputs(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return anchors (A, 4); logits (B, A, K), corrections (B, A, 4), coefficients (B, A, P); prototypes."""
        levels = list(maps)
        for layer in self.coarser:
            levels.append(layer(levels[-1]))
        outputs = [self.anchors(level).permute(0, 2, 3, 1) for level in levels]
        rows = [output.reshape(output.shape[0], -1, sum(self._parts)) for output in outputs]
        logits, corrections, coefficients = torch.split(torch.cat(rows, dim=1).float(), self._parts, dim=-1)
        grids = zip(levels, self.strides, self.anchor_sizes, strict=True)
        anchors = torch.cat([grid_anchors(*grid, self.anchor_ratios) for grid in grids])
        return anchors, logits, corrections, coefficients.tanh(), self.prototypes(maps[0]).relu().float()


def take(values: Tensor, index: Tensor) -> Tensor:
    """Return the rows (B, k, D) of values (B, A, D) that an index (B, k) chooses in each image."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))


def _convolutions(channels: int, count: int, last: nn.Conv2d) -> nn.Sequential:
    """Return convolutions of 3 x 3, each with a ReLU, and the last one."""
    layers = [layer for _ in range(count) for layer in (nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU())]
    return nn.Sequential(*layers, last)
