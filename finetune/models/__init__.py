"""Pretrained backbones, segmentation heads, and the model that combines them."""

from finetune.models.backbone import Backbone
from finetune.models.heads import HEADS
from finetune.models.segmenter import Segmenter
from finetune.models.tunable_model import TunableModel
from finetune.models.weights import WeightsError

__all__ = ["HEADS", "Backbone", "Segmenter", "TunableModel", "WeightsError"]
