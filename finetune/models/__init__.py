"""Pretrained backbones, segmentation heads, and the model that combines them."""

from collections.abc import Mapping
from typing import Any

from finetune.io.messages import suggest
from finetune.models.backbone import Backbone
from finetune.models.heads import HEADS
from finetune.models.instance_heads import INSTANCE_HEADS
from finetune.models.instance_segmenter import InstanceSegmenter
from finetune.models.pyramid_model import PyramidModel
from finetune.models.segmenter import Segmenter
from finetune.models.tunable_model import TunableModel
from finetune.models.weights import WeightsError

MODELS: dict[str, type[PyramidModel]] = {
    **dict.fromkeys(HEADS, Segmenter),
    **dict.fromkeys(INSTANCE_HEADS, InstanceSegmenter),
}  # by the name of the head


def model_class(config: Mapping[str, Any]) -> type[PyramidModel]:
    """Return the class of a saved model.

    Raises:
        ValueError: its head is unknown.
    """
    if config.get("head") not in MODELS:
        raise ValueError(f"unknown head '{config.get('head')}'. {suggest(str(config.get('head')), MODELS)}")
    return MODELS[config["head"]]


__all__ = [
    "HEADS",
    "INSTANCE_HEADS",
    "MODELS",
    "Backbone",
    "InstanceSegmenter",
    "PyramidModel",
    "Segmenter",
    "TunableModel",
    "WeightsError",
    "model_class",
]
