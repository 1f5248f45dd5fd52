"""Heads that predict objects, by name, and the feature pyramid that they read."""

from finetune.models.instance_heads.feature_pyramid import FeaturePyramid
from finetune.models.instance_heads.instance_head import InstanceHead
from finetune.models.instance_heads.mask_rcnn import MaskRCNN
from finetune.models.instance_heads.yolact import Yolact

INSTANCE_HEADS: dict[str, type[InstanceHead]] = {"mask_rcnn": MaskRCNN, "yolact": Yolact}

__all__ = ["INSTANCE_HEADS", "FeaturePyramid", "InstanceHead", "MaskRCNN", "Yolact"]
