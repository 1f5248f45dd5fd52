"""Mask R-CNN: proposes boxes, then classifies, refines and segments each of them."""

from collections.abc import Sequence
from functools import partial
from itertools import repeat

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead

from finetune.instances import Objects
from finetune.models.heads.validation import check_counts, check_fraction, check_most, check_positive
from finetune.models.instance_heads.feature_pyramid import GROUPS
from finetune.models.instance_heads.head_weights import load_fitting_weights
from finetune.models.instance_heads.instance_head import MOST_DETECTIONS, InstanceHead
from finetune.models.instance_heads.proposals import Anchors, ProposalNetwork
from finetune.models.instance_heads.regions import RegionAlign, RegionHeads

# Pairs of an object and an anchor in one image, at most: a step with that many takes 2.7 GB. So 1024 x 1024 pixels have
# up to 256 objects in a step, and 512 x 512 up to 1024; others are drawn in other steps.
MOST_PAIRS = 2**26
BOX_SIDE, MASK_SIDE = 7, 14  # of what is read from the maps for a box
# overlap (IoU) from which a box is an object, and below which it is background; boxes of an image in the loss, and how
# many of these may be objects
ANCHOR_SAMPLING = (0.7, 0.3, 256, 0.5)
REGION_SAMPLING = (0.5, 0.5, 256, 0.25)


class MaskRCNN(InstanceHead):
    """The two stages of Mask R-CNN, of torchvision's parts, without its resizing and normalization of images.

    Args:
        strides: of the four maps, fine to coarse, pixels; a fifth one is a half of the last.
        channels: of each map.
        classes: number of classes, without the background.
        anchor_sizes: side of a square anchor on each of the five maps, pixels.
        anchor_ratios: height over width of the anchors.
        mask_layers: number of convolutions for masks.
        box_features: width of the layers for classes and boxes.
        proposals: boxes of an image to classify.
        max_detections: objects of an image to return.
        min_score: lowest score of an object, 0 to 1.
        nms: overlap (IoU) above which the less certain one of two boxes of a class is removed.
        weights: file with weights of a Mask R-CNN of torchvision; None for random weights.

    Raises:
        ValueError: if an option has no meaning, or none of the weights fits.

    Source: He et al. 2017, https://arxiv.org/abs/1703.06870
    """

    terms = ("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask")

    def __init__(
        self,
        strides: Sequence[int],
        channels: int,
        classes: int,
        anchor_sizes: Sequence[float] = (16, 32, 64, 128, 256),
        anchor_ratios: Sequence[float] = (0.5, 1.0, 2.0),
        mask_layers: int = 2,
        box_features: int = 256,
        proposals: int = 1000,
        max_detections: int = 100,
        min_score: float = 0.05,
        nms: float = 0.5,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        check_counts(mask_layers=mask_layers, box_features=box_features)
        check_counts(proposals=proposals, max_detections=max_detections)
        check_most(MOST_DETECTIONS, proposals=proposals, max_detections=max_detections)
        check_fraction(min_score=min_score, nms=nms)
        check_positive(len(strides) + 1, anchor_sizes=anchor_sizes)
        check_positive(None, anchor_ratios=anchor_ratios)
        self.max_detections, self.min_score = max_detections, min_score
        kept = {"training": proposals, "testing": proposals}
        self.rpn = ProposalNetwork(
            Anchors((*strides, 2 * strides[-1]), anchor_sizes, anchor_ratios),
            RPNHead(channels, len(anchor_ratios)),
            *(*ANCHOR_SAMPLING, kept, kept),
            nms_thresh=0.7,
        )
        self.roi_heads = RegionHeads(
            RegionAlign(strides, BOX_SIDE),
            TwoMLPHead(channels * BOX_SIDE**2, box_features),
            FastRCNNPredictor(box_features, classes + 1),
            *(*REGION_SAMPLING, None, min_score, nms, max_detections),
            RegionAlign(strides, MASK_SIDE),
            MaskRCNNHeads(channels, repeat(channels, mask_layers), 1, partial(nn.GroupNorm, GROUPS)),
            MaskRCNNPredictor(channels, channels, classes + 1),
        )
        if weights is not None:
            load_fitting_weights(self, weights)

    def losses(self, maps: Sequence[Tensor], targets: Sequence[Objects]) -> dict[str, Tensor]:
        """Return the five losses of torchvision's model; see `InstanceHead`."""
        levels = _with_coarsest(maps)
        anchors = sum(level[0, 0].numel() for level in levels) * self.rpn.head.cls_logits.out_channels
        truth = [_training_target(objects, MOST_PAIRS // anchors) for objects in targets]
        proposals, losses = self.rpn(levels, targets[0].size, truth)
        return {**losses, **self.roi_heads.losses(maps, proposals, truth)}

    def detect(self, maps: Sequence[Tensor], size: tuple[int, int]) -> list[Objects]:
        """Return the objects of each image; see `InstanceHead`."""
        proposals, _ = self.rpn(_with_coarsest(maps), size)
        return self.roi_heads.detect(maps, proposals, size)


def _with_coarsest(maps: Sequence[Tensor]) -> list[Tensor]:
    return [*maps, F.max_pool2d(maps[-1], kernel_size=1, stride=2)]


def _training_target(objects: Objects, most: int) -> dict[str, Tensor]:
    """Return the objects of an image as torchvision takes them.

    Objects without a pixel or with a degenerate box are left out, as their losses are infinite; so are random ones
    beyond the `most`. Their pixels are ignored.
    """
    valid = (objects.boxes[:, 2:] > objects.boxes[:, :2]).all(1) & objects.masks.flatten(1).any(1)
    chosen = valid.nonzero().flatten()
    if len(chosen) > most:
        chosen = chosen[torch.randperm(len(chosen), device=chosen.device)[:most]]
    kept, ignored = objects, objects.ignored
    if len(chosen) < len(objects):
        kept = objects[chosen]
        left_out = objects.masks.any(0) & ~kept.masks.any(0)
        ignored = left_out if ignored is None else ignored | left_out
    if ignored is None:
        ignored = torch.zeros(objects.size, dtype=torch.bool, device=objects.masks.device)
    return {"boxes": kept.boxes, "labels": kept.labels + 1, "masks": kept.masks, "ignored": ignored}
