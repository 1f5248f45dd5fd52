"""PAN: attention from three poolings, carried up the pyramid."""

from segmentation_models_pytorch.base.heads import SegmentationHead
from segmentation_models_pytorch.decoders.pan.decoder import FPABlock, PANDecoder
from torch import Tensor
from torch.nn import functional as F

from finetune.models.heads.pyramid import COARSE, DecoderAndHead, PyramidSpec
from finetune.models.heads.validation import check_counts, check_interpolation

LEAST = 8  # pixels that three poolings need


def pan(
    pyramid: PyramidSpec, classes: int, decoder_channels: int = 32, interpolation: str = "bilinear"
) -> DecoderAndHead:
    """Pyramid attention network: a pooling pyramid weighs the coarsest map, which weighs the finer ones.

    Sides of the coarsest map below 8 pixels, of images below 128, are stretched to 8 for the three poolings, and what
    comes of it is averaged back; smp has no answer there.

    Source: Li et al. 2018, https://arxiv.org/abs/1805.10180
    """
    check_counts(decoder_channels=decoder_channels)
    check_interpolation(interpolation)
    decoder = PANDecoder(
        encoder_channels=pyramid.channels,
        encoder_depth=len(pyramid.channels) - 1,
        decoder_channels=decoder_channels,
        interpolation_mode=interpolation,
    )
    decoder.fpa = PyramidAttention(pyramid.channels[-1], decoder_channels)
    decoder.levels = COARSE
    return decoder, SegmentationHead(decoder_channels, classes, kernel_size=3, upsampling=pyramid.strides[2])


class PyramidAttention(FPABlock):  # type: ignore[misc]  # smp is not typed
    """The block of smp, on maps of any size."""

    def forward(self, x: Tensor) -> Tensor:
        """Weighed map (B, C', h, w) of a map (B, C, h, w)."""
        size = x.shape[-2:]
        enough = (max(size[0], LEAST), max(size[1], LEAST))
        stretched = F.interpolate(x, enough, mode="bilinear", align_corners=False)  # changes nothing at its own size
        return F.interpolate(super().forward(stretched), size, mode="area")
