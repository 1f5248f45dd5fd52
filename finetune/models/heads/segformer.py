"""The head of SegFormer: a linear layer per map, and one for all."""

from segmentation_models_pytorch.base.heads import SegmentationHead
from segmentation_models_pytorch.decoders.segformer.decoder import SegformerDecoder

from finetune.models.heads.pyramid import ALL_LEVELS, REQUIRED_LEVELS, DecoderAndHead, PyramidSpec
from finetune.models.heads.validation import check_counts


def segformer(pyramid: PyramidSpec, classes: int, segmentation_channels: int = 256) -> DecoderAndHead:
    """Build SegFormer's head: a linear layer per map, upsampling to stride 4, and a linear layer for all.

    As in smp, the map of stride 2 is used if the backbone has one.

    Source: Xie et al. 2021, https://arxiv.org/abs/2105.15203
    """
    check_counts(segmentation_channels=segmentation_channels)
    decoder = SegformerDecoder(
        encoder_channels=pyramid.channels,
        encoder_depth=len(pyramid.channels) - 1,
        segmentation_channels=segmentation_channels,
    )
    decoder.levels = ALL_LEVELS if pyramid.channels[1] else REQUIRED_LEVELS
    return decoder, SegmentationHead(segmentation_channels, classes, kernel_size=1, upsampling=pyramid.strides[2])
