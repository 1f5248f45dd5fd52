"""DeepLabV3: parallel atrous convolutions of several rates."""

from collections.abc import Sequence

from segmentation_models_pytorch.base.heads import SegmentationHead
from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3Decoder

from finetune.models.heads.pyramid import DecoderAndHead, PyramidSpec
from finetune.models.heads.validation import check_counts, check_flags, check_fraction, check_length

RATES = 3  # number of atrous rates


def deeplabv3(
    pyramid: PyramidSpec,
    classes: int,
    decoder_channels: int = 256,
    atrous_rates: Sequence[int] = (12, 24, 36),
    separable: bool = False,
    dropout: float = 0.5,
) -> DecoderAndHead:
    """Build DeepLabV3: atrous pooling on the coarsest map, of stride 8 if the backbone can be dilated.

    Source: Chen et al. 2017, https://arxiv.org/abs/1706.05587
    """
    check_counts(decoder_channels=decoder_channels)
    check_length(RATES, atrous_rates=atrous_rates)
    check_flags(separable=separable)
    check_fraction(dropout=dropout)
    decoder = DeepLabV3Decoder(
        in_channels=pyramid.channels[-1],
        out_channels=decoder_channels,
        atrous_rates=tuple(atrous_rates),
        aspp_separable=separable,
        aspp_dropout=dropout,
    )
    decoder.levels = (5,)
    return decoder, SegmentationHead(decoder_channels, classes, kernel_size=1, upsampling=pyramid.strides[-1])
