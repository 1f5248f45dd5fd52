"""PAN (pyramid attention network): attention from three poolings, passed up the pyramid."""

from segmentation_models_pytorch.base.heads import SegmentationHead
from segmentation_models_pytorch.decoders.pan.decoder import FPABlock, PANDecoder
from torch import Tensor
from torch.nn import functional as F

from finetune.models.heads.pyramid import REQUIRED_LEVELS, DecoderAndHead, PyramidSpec
from finetune.models.heads.validation import check_counts, check_interpolation

MIN_SIDE = 8  # pixels; needed by three poolings


def pan(
    pyramid: PyramidSpec, classes: int, decoder_channels: int = 32, interpolation: str = "bilinear"
) -> DecoderAndHead:
    """Build a pyramid attention network: a pooling pyramid weights the coarsest map, which weights the finer ones.

    If a side of the coarsest map is below 8 pixels (images below 128), it is resized to 8 for the three poolings, and
    the result is averaged back; smp raises an error there.

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
    decoder.levels = REQUIRED_LEVELS
    return decoder, SegmentationHead(decoder_channels, classes, kernel_size=3, upsampling=pyramid.strides[2])


class PyramidAttention(FPABlock):  # type: ignore[misc]  # smp is not typed
    """smp's attention block for maps of any size."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the weighted map (B, C', h, w) of a map (B, C, h, w)."""
        size = x.shape[-2:]
        minimum = (max(size[0], MIN_SIDE), max(size[1], MIN_SIDE))
        stretched = F.interpolate(x, minimum, mode="bilinear", align_corners=False)  # identity if large enough
        return F.interpolate(super().forward(stretched), size, mode="area")
