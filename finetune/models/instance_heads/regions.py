"""The second stage of Mask R-CNN: class, refined box and mask of each proposal."""

from collections.abc import Sequence

from torch import Tensor
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss, maskrcnn_inference, maskrcnn_loss
from torchvision.ops import MultiScaleRoIAlign, box_iou
from torchvision.ops.poolers import LevelMapper

from finetune.instances import Objects
from finetune.models.instance_heads.ignored_pixels import lie_on
from finetune.models.instance_heads.paste_masks import paste_masks
from finetune.models.instance_heads.proposals import Targets

FINEST = 2  # level of the finest map: the exponent of its stride, 4


class RegionAlign(MultiScaleRoIAlign):  # type: ignore[misc]  # torchvision is not typed
    """RoIAlign of maps of these strides, in float32, which it needs.

    torchvision infers the strides, once, from the first size of images without padding, which can be wrong by a factor
    of two. Which map a box is read from depends on its level, not on the stride, which is finer in a dilated backbone.

    Args:
        strides: of the maps, pixels.
        side: of what is read for a box.
    """

    def __init__(self, strides: Sequence[int], side: int) -> None:
        super().__init__([str(index) for index in range(len(strides))], side, sampling_ratio=2)
        self.scales = [1 / stride for stride in strides]
        self.map_levels = LevelMapper(FINEST, FINEST + len(strides) - 1)

    def forward(self, maps: Sequence[Tensor], boxes: list[Tensor]) -> Tensor:
        """Return (N, channels, side, side) for all boxes (n, 4) of all images."""
        features = {str(index): feature.float() for index, feature in enumerate(maps)}
        pooled: Tensor = super().forward(features, boxes, [])
        return pooled.to(maps[0].dtype)


class RegionHeads(RoIHeads):  # type: ignore[misc]  # torchvision is not typed
    """torchvision's heads for regions, in float32 after the layers, with losses and detections in any mode.

    A target of an image is `boxes` (N, 4), `labels` (N,) from 1, `masks` (N, H, W), bool, and `ignored` (H, W), bool.
    """

    def losses(self, maps: Sequence[Tensor], proposals: list[Tensor], targets: Targets) -> dict[str, Tensor]:
        """Return the losses of the proposals (N, 4) of each image."""
        proposals = [self._without_ignored(*pair) for pair in zip(proposals, targets, strict=True)]
        proposals, matched, labels, deltas = self.select_training_samples(proposals, targets)
        logits, predicted = self._classify(maps, proposals)
        losses = (0 * logits.sum(), 0 * predicted.sum())  # if all is ignored, as a mean over nothing is NaN
        if len(logits):
            losses = fastrcnn_loss(logits, predicted, labels, deltas)
        boxes, masks, classes, indices = [], [], [], []
        for proposal, label, match, target in zip(proposals, labels, matched, targets, strict=True):
            needed, index = match[label > 0].unique(return_inverse=True)  # others would become float32 in vain
            boxes.append(proposal[label > 0])
            masks.append(target["masks"][needed])
            classes.append(target["labels"][needed])
            indices.append(index)
        mask_loss = maskrcnn_loss(self._mask_logits(maps, boxes), boxes, masks, classes, indices)
        return {"loss_classifier": losses[0], "loss_box_reg": losses[1], "loss_mask": mask_loss}

    def detect(self, maps: Sequence[Tensor], proposals: list[Tensor], size: tuple[int, int]) -> list[Objects]:
        """Return the objects in the proposals (N, 4) of each image, by falling score, with masks of a size.

        Those without a pixel are left out.
        """
        outputs = self._classify(maps, proposals)
        boxes, scores, labels = self.postprocess_detections(*outputs, proposals, [size] * len(proposals))
        probabilities = maskrcnn_inference(self._mask_logits(maps, boxes), labels)
        found = []
        for probability, label, box, score in zip(probabilities, labels, boxes, scores, strict=True):
            masks = paste_masks(probability[:, 0], box, size)
            seen = masks.flatten(1).any(1)
            found.append(Objects(masks[seen], label[seen] - 1, box[seen], score[seen]))
        return found

    def _without_ignored(self, boxes: Tensor, target: dict[str, Tensor]) -> Tensor:
        """Return the proposals that are objects or lie where the background is known."""
        ignored = lie_on(boxes, target["ignored"])
        if len(target["boxes"]):
            ignored &= box_iou(target["boxes"], boxes).amax(0) < self.proposal_matcher.low_threshold
        return boxes[~ignored]

    def _classify(self, maps: Sequence[Tensor], boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return logits (N, classes) and changes of the boxes (N, 4 classes) for all boxes of all images."""
        logits, deltas = self.box_predictor(self.box_head(self.box_roi_pool(maps, boxes)))
        return logits.float(), deltas.float()

    def _mask_logits(self, maps: Sequence[Tensor], boxes: list[Tensor]) -> Tensor:
        """Return (N, classes, 28, 28) for all boxes of all images."""
        logits: Tensor = self.mask_predictor(self.mask_head(self.mask_roi_pool(maps, boxes)))
        return logits.float()
