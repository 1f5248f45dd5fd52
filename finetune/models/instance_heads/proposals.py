"""The first stage of Mask R-CNN: boxes of any class, proposed from anchors on a feature pyramid."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.rpn import RegionProposalNetwork, concat_box_prediction_layers

from finetune.models.instance_heads.ignored_pixels import lie_on

Targets = Sequence[dict[str, Tensor]]


class Anchors(AnchorGenerator):  # type: ignore[misc]  # torchvision is not typed
    """Anchors at the true strides of the maps.

    torchvision divides the size of the images by that of a map, which is wrong where a size was rounded up, as that of
    stride 64 for 96 pixels; and it rounds anchors to whole pixels, which distorts small ones.

    Args:
        strides: of the maps, pixels.
        sizes: side of a square anchor on each map, pixels.
        ratios: height over width of the anchors of each map.
    """

    def __init__(self, strides: Sequence[int], sizes: Sequence[float], ratios: Sequence[float]) -> None:
        super().__init__(tuple((size,) for size in sizes), (tuple(ratios),) * len(sizes))
        self.strides = [(stride, stride) for stride in strides]
        self.side_lengths, self.ratios = tuple(sizes), tuple(ratios)
        self.cell_anchors: list[Tensor] = []  # not kept, as a model has no tensors but weights and buffers

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return the anchors of an image (A, 4), float32, fine to coarse."""
        roots = torch.tensor(self.ratios, dtype=torch.float32, device=maps[0].device).sqrt()
        corners = torch.stack([-1 / roots, -roots, 1 / roots, roots], dim=1) / 2
        self.cell_anchors = [size * corners for size in self.side_lengths]
        anchors = torch.cat(self.grid_anchors([feature.shape[-2:] for feature in maps], self.strides))
        self.cell_anchors = []
        return anchors


class ProposalNetwork(RegionProposalNetwork):  # type: ignore[misc]  # torchvision is not typed
    """torchvision's region proposal network without its list of images, in float32 after the convolutions."""

    def forward(
        self, maps: Sequence[Tensor], size: tuple[int, int], targets: Targets | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Return the proposals of each image (N, 4), and the losses if there are targets.

        Args:
            maps: (B, channels, h, w), fine to coarse.
            size: height and width of the images without padding.
            targets: of each image, as in `RegionHeads`.
        """
        levels = self.head(list(maps))
        counts = [level[0].numel() for level in levels[0]]
        anchors = [self.anchor_generator(maps)] * len(maps[0])
        # bfloat16 has whole numbers up to 256 only
        objectness, deltas = (outputs.float() for outputs in concat_box_prediction_layers(*levels))
        boxes = self.box_coder.decode(deltas.detach(), anchors).view(len(anchors), -1, 4)
        proposals, _ = self.filter_proposals(boxes, objectness, [size] * len(anchors), counts)
        if targets is None:
            return proposals, {}
        labels, matched = self.assign_targets_to_anchors(anchors, targets)
        losses = (0 * objectness.sum(), 0 * deltas.sum())  # if all is ignored, as a mean over nothing is NaN
        if any((label >= 0).any() for label in labels):
            losses = self.compute_loss(objectness, deltas, labels, self.box_coder.encode(matched, anchors))
        return proposals, {"loss_objectness": losses[0], "loss_rpn_box_reg": losses[1]}

    def assign_targets_to_anchors(self, anchors: list[Tensor], targets: Targets) -> tuple[list[Tensor], list[Tensor]]:
        """Return the label of each anchor (1 object, 0 background, -1 neither) and its true box."""
        labels, matched = super().assign_targets_to_anchors(anchors, targets)
        for label, boxes, target in zip(labels, anchors, targets, strict=True):
            label[(label == 0) & lie_on(boxes, target["ignored"])] = -1
        return labels, matched
