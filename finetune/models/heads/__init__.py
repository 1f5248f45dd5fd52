"""Segmentation heads by name: a decoder and a classifier for the pyramid of any backbone, one file each."""

from finetune.models.heads.auxiliary import AuxiliaryHead
from finetune.models.heads.head_specs import HEADS, HeadSpec, check_output_stride, head_spec
from finetune.models.heads.pyramid import HasAuxiliaryOutputs, PyramidSpec, levels_read

__all__ = [
    "HEADS",
    "AuxiliaryHead",
    "HasAuxiliaryOutputs",
    "HeadSpec",
    "PyramidSpec",
    "check_output_stride",
    "head_spec",
    "levels_read",
]
