"""Objects of an image, each with a mask: what instance segmentation predicts and is trained on."""

from finetune.instances.crops import ObjectCrop, as_objects, crops_of, join_crops
from finetune.instances.objects import Objects, boxes_of, objects_of
from finetune.instances.planes import IGNORED, Planes, from_planes

__all__ = [
    "IGNORED",
    "ObjectCrop",
    "Objects",
    "Planes",
    "as_objects",
    "boxes_of",
    "crops_of",
    "from_planes",
    "join_crops",
    "objects_of",
]
