"""MA-Net: a U-Net with attention between positions of the coarsest map and of channels at every skip."""

from collections.abc import Sequence

from segmentation_models_pytorch.base.heads import SegmentationHead
from segmentation_models_pytorch.decoders.manet.decoder import MAnetDecoder

from finetune.models.heads.pyramid import ALL_LEVELS, DecoderAndHead, PyramidSpec
from finetune.models.heads.validation import Norm, check_counts, check_depth, check_interpolation, check_norm


def manet(
    pyramid: PyramidSpec,
    classes: int,
    decoder_channels: Sequence[int] = (256, 128, 64, 32, 16),
    pab_channels: int = 64,
    reduction: int = 16,
    interpolation: str = "nearest",
    norm: Norm = "batchnorm",
) -> DecoderAndHead:
    """Build MA-Net: attention between all positions of the coarsest map, and of channels at every skip.

    Memory grows with the square of the coarsest map's size. Without a map of stride 2, there is no skip at that level.

    Source: Fan et al. 2020, https://doi.org/10.1109/ACCESS.2020.3025372
    """
    check_depth(decoder_channels, len(pyramid.channels) - 1)
    check_counts(pab_channels=pab_channels, reduction=reduction)
    check_interpolation(interpolation)
    check_norm(norm)
    channels = list(decoder_channels)
    decoder = MAnetDecoder(
        encoder_channels=pyramid.channels,
        decoder_channels=channels,
        n_blocks=len(channels),
        reduction=reduction,
        use_norm=norm,
        pab_channels=pab_channels,
        interpolation_mode=interpolation,
    )
    decoder.levels = ALL_LEVELS
    return decoder, SegmentationHead(channels[-1], classes, kernel_size=3)
