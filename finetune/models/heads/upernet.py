"""UPerNet: a feature pyramid network on top of a pooling pyramid."""

from segmentation_models_pytorch.base.heads import SegmentationHead
from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder

from finetune.models.heads.pyramid import REQUIRED_LEVELS, DecoderAndHead, PyramidSpec
from finetune.models.heads.validation import Norm, check_counts, check_norm


def upernet(
    pyramid: PyramidSpec,
    classes: int,
    decoder_channels: int = 256,
    norm: Norm = "batchnorm",
) -> DecoderAndHead:
    """Build UPerNet: the coarsest map is pooled to 1, 2, 3 and 6 pixels; a feature pyramid ends at stride 4.

    `norm` cannot be an instance norm, which is zero for a single pooled pixel.

    Source: Xiao et al. 2018, https://arxiv.org/abs/1807.10221
    """
    check_counts(decoder_channels=decoder_channels)
    check_norm(norm, ("batchnorm", "identity"))
    decoder = UPerNetDecoder(
        encoder_channels=pyramid.channels,
        encoder_depth=len(pyramid.channels) - 1,
        decoder_channels=decoder_channels,
        use_norm=norm,
    )
    decoder.levels = REQUIRED_LEVELS
    return decoder, SegmentationHead(decoder_channels, classes, kernel_size=1, upsampling=pyramid.strides[2])
