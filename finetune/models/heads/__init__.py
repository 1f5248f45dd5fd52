"""Segmentation heads by name: a decoder and a classifier for the pyramid of any backbone, one file each."""

from finetune.models.heads.auxiliary import AuxiliaryHead
from finetune.models.heads.head_specs import HEADS, HeadType, check_output_stride, head_type
from finetune.models.heads.pyramid import Auxiliary, Pyramid, levels_read

__all__ = [
    "HEADS",
    "Auxiliary",
    "AuxiliaryHead",
    "HeadType",
    "Pyramid",
    "check_output_stride",
    "head_type",
    "levels_read",
]
