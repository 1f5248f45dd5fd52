"""DeepLabV3+: parallel atrous convolutions of several rates, and a finer map for the borders."""

from collections.abc import Sequence

from segmentation_models_pytorch.base.heads import SegmentationHead
from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3PlusDecoder
from torch import nn

from finetune.models.heads.deeplabv3 import RATES
from finetune.models.heads.pyramid import DecoderAndHead, PyramidSpec
from finetune.models.heads.validation import check_counts, check_flags, check_fraction, check_length


def deeplabv3plus(
    pyramid: PyramidSpec,
    classes: int,
    decoder_channels: int = 256,
    atrous_rates: Sequence[int] = (12, 24, 36),
    separable: bool = True,
    dropout: float = 0.5,
) -> DecoderAndHead:
    """Build DeepLabV3+: atrous pooling on the coarsest map, concatenated with the map of stride 4.

    Source: Chen et al. 2018, https://arxiv.org/abs/1802.02611
    """
    check_counts(decoder_channels=decoder_channels)
    check_length(RATES, atrous_rates=atrous_rates)
    check_flags(separable=separable)
    check_fraction(dropout=dropout)
    decoder = DeepLabV3PlusDecoder(
        encoder_channels=pyramid.channels,
        encoder_depth=len(pyramid.channels) - 1,
        out_channels=decoder_channels,
        atrous_rates=tuple(atrous_rates),
        output_stride=16,
        aspp_separable=separable,
        aspp_dropout=dropout,
    )
    # smp upsamples by 4, which is wrong for a backbone that cannot be dilated and ends at stride 32
    factor = pyramid.strides[-1] // pyramid.strides[2]
    decoder.up = nn.Upsample(mode="bilinear", scale_factor=factor, align_corners=True)
    decoder.levels = (2, 5)
    return decoder, SegmentationHead(decoder_channels, classes, kernel_size=1, upsampling=pyramid.strides[2])
