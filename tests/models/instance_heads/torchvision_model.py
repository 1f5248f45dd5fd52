"""torchvision's own Mask R-CNN around the same parts, to compare with."""

import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN as TheirMaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import MultiScaleRoIAlign

from finetune.instances import Objects
from finetune.models.instance_heads import MaskRCNN


class Given(nn.Module):
    """A backbone that returns the maps that it was given, and the coarsest one."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.out_channels = channels
        self.maps: list[Tensor] = []

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        levels = {str(index): feature for index, feature in enumerate(self.maps)}
        return {**levels, "pool": nn.functional.max_pool2d(self.maps[-1], 1, 2)}


class Untransformed(nn.Module):
    """Images as they are."""

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None) -> tuple[ImageList, object]:
        return ImageList(torch.stack(images), [(i.shape[-2], i.shape[-1]) for i in images]), targets

    def postprocess(self, result: list[dict[str, Tensor]], *_: object) -> list[dict[str, Tensor]]:
        return result


def torchvision_model(head: MaskRCNN, channels: int, classes: int, **options: object) -> TheirMaskRCNN:
    """Return torchvision's model with the weights of a head of default options, and with its anchors."""
    generator = head.rpn.anchor_generator
    model = TheirMaskRCNN(
        Given(channels),
        num_classes=None,
        rpn_anchor_generator=AnchorGenerator(generator.sizes, generator.aspect_ratios),
        rpn_pre_nms_top_n_train=1000,
        rpn_post_nms_top_n_train=1000,
        box_batch_size_per_image=256,
        box_roi_pool=MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2),
        box_head=head.roi_heads.box_head,
        box_predictor=head.roi_heads.box_predictor,
        mask_head=head.roi_heads.mask_head,
        mask_predictor=head.roi_heads.mask_predictor,
        **options,
    )
    model.rpn.head = head.rpn.head
    model.transform = Untransformed()
    return model


def their_targets(targets: list[Objects]) -> list[dict[str, Tensor]]:
    """Return objects as torchvision takes them."""
    return [{"boxes": t.boxes, "labels": t.labels + 1, "masks": t.masks.to(torch.uint8)} for t in targets]
