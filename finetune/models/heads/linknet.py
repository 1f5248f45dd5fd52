"""LinkNet: a light U-Net that adds its skips."""

from segmentation_models_pytorch.base.heads import SegmentationHead
from segmentation_models_pytorch.decoders.linknet.decoder import LinknetDecoder

from finetune.models.heads.pyramid import ALL_LEVELS, DecoderAndHead, PyramidSpec
from finetune.models.heads.validation import Norm, check_counts, check_norm


def linknet(
    pyramid: PyramidSpec,
    classes: int,
    prefinal_channels: int = 32,
    norm: Norm = "batchnorm",
) -> DecoderAndHead:
    """Build LinkNet: transposed convolutions, and skips that are added; a missing map of stride 2 adds nothing.

    Source: Chaurasia and Culurciello 2017, https://arxiv.org/abs/1707.03718
    """
    check_counts(prefinal_channels=prefinal_channels)
    check_norm(norm)
    decoder = LinknetDecoder(
        encoder_channels=pyramid.channels,
        prefinal_channels=prefinal_channels,
        n_blocks=len(pyramid.channels) - 1,
        use_norm=norm,
    )
    decoder.levels = ALL_LEVELS
    return decoder, SegmentationHead(prefinal_channels, classes, kernel_size=1)
