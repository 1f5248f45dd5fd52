"""PSPNet (pyramid scene parsing): context at four scales for each pixel."""

from typing import Any

from segmentation_models_pytorch.base.heads import SegmentationHead
from segmentation_models_pytorch.base.modules import Conv2dReLU
from segmentation_models_pytorch.decoders.pspnet.decoder import PSPDecoder
from torch import Tensor

from finetune.models.heads.pyramid import DecoderAndHead, PyramidSpec
from finetune.models.heads.validation import Norm, check_counts, check_fraction, check_norm

POOLINGS = 4  # to 1, 2, 3 and 6 pixels


def pspnet(
    pyramid: PyramidSpec,
    classes: int,
    decoder_channels: int = 512,
    stride: int = 8,
    norm: Norm = "batchnorm",
    dropout: float = 0.2,
) -> DecoderAndHead:
    """Build PSPNet: one map, concatenated with itself pooled to 1, 2, 3 and 6 pixels.

    As in smp, it is the map of stride 8 of an undilated backbone, so coarser layers are unused.

    Source: Zhao et al. 2017, https://arxiv.org/abs/1612.01105
    """
    check_counts(decoder_channels=decoder_channels)
    check_norm(norm)
    check_fraction(dropout=dropout)
    decoder = PSPLevel(
        pyramid.deepest_level(stride),
        encoder_channels=pyramid.channels,
        use_norm=norm,
        out_channels=decoder_channels,
        dropout=dropout,
    )
    return decoder, SegmentationHead(decoder_channels, classes, kernel_size=3, upsampling=stride)


class PSPLevel(PSPDecoder):  # type: ignore[misc]  # smp is not typed
    """smp's decoder on one level of the pyramid, with any number of channels."""

    def __init__(
        self, level: int, encoder_channels: tuple[int, ...], use_norm: Norm, out_channels: int, **options: Any
    ) -> None:
        width = encoder_channels[level]
        super().__init__(encoder_channels=[width], use_norm=use_norm, out_channels=out_channels, **options)
        self.levels = (level,)
        joined = width + POOLINGS * (width // POOLINGS)
        if joined != 2 * width:  # smp assumes that 4 divides the channels
            self.conv = Conv2dReLU(joined, out_channels, kernel_size=1, use_norm=use_norm)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return the pooled and concatenated map (B, C, h, w) of the level."""
        pooled: Tensor = super().forward([features[self.levels[0]]])
        return pooled
