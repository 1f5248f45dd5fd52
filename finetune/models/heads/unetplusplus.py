"""U-Net++: a U-Net with nested, convolved skips."""

from collections.abc import Sequence

from segmentation_models_pytorch.base.heads import SegmentationHead
from segmentation_models_pytorch.decoders.unetplusplus.decoder import UnetPlusPlusDecoder
from torch import nn

from finetune.models.heads.pyramid import ALL_LEVELS, DecoderAndHead, PyramidSpec
from finetune.models.heads.validation import (
    Norm,
    check_attention,
    check_depth,
    check_flags,
    check_interpolation,
    check_norm,
)


def unetplusplus(
    pyramid: PyramidSpec,
    classes: int,
    decoder_channels: Sequence[int] = (256, 128, 64, 32, 16),
    attention_type: str | None = None,
    interpolation: str = "nearest",
    norm: Norm = "batchnorm",
    center: bool = False,
) -> DecoderAndHead:
    """Build U-Net++: nested skips between encoder and decoder; a missing map of stride 2 has none.

    Source: Zhou et al. 2018, https://arxiv.org/abs/1807.10165
    """
    check_depth(decoder_channels, len(pyramid.channels) - 1)
    check_flags(center=center)
    channels = list(decoder_channels)
    check_attention(attention_type, [*channels, *(width for width in pyramid.channels[1:-1] if width)])
    check_interpolation(interpolation)
    check_norm(norm)
    decoder = UnetPlusPlusDecoder(
        encoder_channels=pyramid.channels,
        decoder_channels=channels,
        n_blocks=len(channels),
        use_norm=norm,
        attention_type=attention_type,
        interpolation_mode=interpolation,
        center=center,
    )
    last_block = decoder.blocks[f"x_0_{decoder.depth}"]
    last_block.attention1 = nn.Identity()  # for a skip, which the last step does not have
    decoder.levels = ALL_LEVELS
    return decoder, SegmentationHead(channels[-1], classes, kernel_size=3)
