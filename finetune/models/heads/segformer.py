"""The head of SegFormer: a linear layer for each map, and one more for all."""

from segmentation_models_pytorch.base.heads import SegmentationHead
from segmentation_models_pytorch.decoders.segformer.decoder import SegformerDecoder

from finetune.models.heads.pyramid import ALL, COARSE, DecoderAndHead, PyramidSpec
from finetune.models.heads.validation import check_counts


def segformer(pyramid: PyramidSpec, classes: int, segmentation_channels: int = 256) -> DecoderAndHead:
    """SegFormer's head: every map through a linear layer to stride 4, joined by another.

    As in smp, the map of stride 2 takes part where the backbone has one.

    Source: Xie et al. 2021, https://arxiv.org/abs/2105.15203
    """
    check_counts(segmentation_channels=segmentation_channels)
    decoder = SegformerDecoder(
        encoder_channels=pyramid.channels,
        encoder_depth=len(pyramid.channels) - 1,
        segmentation_channels=segmentation_channels,
    )
    decoder.levels = ALL if pyramid.channels[1] else COARSE
    return decoder, SegmentationHead(segmentation_channels, classes, kernel_size=1, upsampling=pyramid.strides[2])
