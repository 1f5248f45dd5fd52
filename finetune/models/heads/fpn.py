"""Feature pyramid network."""

from segmentation_models_pytorch.base.heads import SegmentationHead
from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder

from finetune.models.heads.options import check_choice, check_counts, check_interpolation, check_share
from finetune.models.heads.pyramid import COARSE, Parts, Pyramid

GROUPS = 32  # of smp's group norms


def fpn(
    pyramid: Pyramid,
    classes: int,
    pyramid_channels: int = 256,
    segmentation_channels: int = 128,
    merge_policy: str = "add",
    dropout: float = 0.2,
    interpolation: str = "nearest",
) -> Parts:
    """Feature pyramid network, summed at stride 4.

    With only 32 segmentation channels, group norm sees one value in the one pixel that an image of 32x32 pixels ends
    as, and torch refuses.

    Source: Kirillov et al. 2019, https://arxiv.org/abs/1901.02446
    """
    check_counts(pyramid_channels=pyramid_channels, segmentation_channels=segmentation_channels)
    if segmentation_channels % GROUPS:
        raise ValueError(
            f"head.segmentation_channels={segmentation_channels}: its group norms need a multiple of {GROUPS}."
        )
    check_choice("merge_policy", merge_policy, ("add", "cat"))
    check_interpolation(interpolation)
    check_share(dropout=dropout)
    decoder = FPNDecoder(
        encoder_channels=pyramid.channels,
        encoder_depth=len(pyramid.channels) - 1,
        pyramid_channels=pyramid_channels,
        segmentation_channels=segmentation_channels,
        merge_policy=merge_policy,
        dropout=dropout,
        interpolation_mode=interpolation,
    )
    decoder.levels = COARSE
    return decoder, SegmentationHead(decoder.out_channels, classes, kernel_size=1, upsampling=pyramid.strides[2])
