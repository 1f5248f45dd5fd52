"""FPN (feature pyramid network)."""

import math

from segmentation_models_pytorch.base.heads import SegmentationHead
from segmentation_models_pytorch.decoders.fpn.decoder import FPNBlock, FPNDecoder, SegmentationBlock
from torch import Tensor, nn

from finetune.models.heads.pyramid import REQUIRED_LEVELS, DecoderAndHead, PyramidSpec
from finetune.models.heads.validation import check_choice, check_counts, check_fraction, check_interpolation

GROUPS = 32  # of smp's group norms


def fpn(
    pyramid: PyramidSpec,
    classes: int,
    pyramid_channels: int = 256,
    segmentation_channels: int = 128,
    merge_policy: str = "add",
    dropout: float = 0.2,
    interpolation: str = "nearest",
) -> DecoderAndHead:
    """Build a feature pyramid network whose levels are summed at stride 4.

    With only 32 segmentation channels, a training image of 32x32 pixels leaves group norm one value per group, which
    torch rejects.

    Source: Kirillov et al. 2019, https://arxiv.org/abs/1901.02446
    """
    check_counts(pyramid_channels=pyramid_channels, segmentation_channels=segmentation_channels)
    if segmentation_channels % GROUPS:
        raise ValueError(
            f"head.segmentation_channels={segmentation_channels}: expected a multiple of {GROUPS}, for its group norms."
        )
    check_choice("merge_policy", merge_policy, ("add", "cat"))
    check_interpolation(interpolation)
    check_fraction(dropout=dropout)
    decoder = FPNDecoder(
        encoder_channels=pyramid.channels,
        encoder_depth=len(pyramid.channels) - 1,
        pyramid_channels=pyramid_channels,
        segmentation_channels=segmentation_channels,
        merge_policy=merge_policy,
        dropout=dropout,
        interpolation_mode=interpolation,
    )
    decoder.levels = REQUIRED_LEVELS
    if len(set(pyramid.strides)) < len(pyramid.strides):
        _skip_doublings(decoder, pyramid, pyramid_channels, segmentation_channels, interpolation)
    return decoder, SegmentationHead(decoder.out_channels, classes, kernel_size=1, upsampling=pyramid.strides[2])


def _skip_doublings(
    decoder: FPNDecoder, pyramid: PyramidSpec, pyramid_channels: int, segmentation_channels: int, interpolation: str
) -> None:
    """Upsample no map that already has the size of the next finer one, as in a dilated backbone."""
    for level, name in ((4, "p4"), (3, "p3"), (2, "p2")):
        if pyramid.strides[level + 1] == pyramid.strides[level]:
            setattr(decoder, name, SameSize(pyramid_channels, pyramid.channels[level], interpolation))
    doublings = [round(math.log2(stride / pyramid.strides[2])) for stride in reversed(pyramid.strides[2:])]
    decoder.seg_blocks = nn.ModuleList(
        SegmentationBlock(pyramid_channels, segmentation_channels, n_upsamples=count) for count in doublings
    )


class SameSize(FPNBlock):  # type: ignore[misc]  # smp is not typed
    """smp's FPN block for two maps of the same size."""

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Return the sum (B, C, h, w) of both maps."""
        summed: Tensor = x + self.skip_conv(skip)
        return summed
