"""Segmentation heads on the decoders of segmentation_models_pytorch: a name, a decoder, a classifier."""

import difflib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from segmentation_models_pytorch.base.heads import SegmentationHead
from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3PlusDecoder
from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from torch import nn


@dataclass(frozen=True)
class Pyramid:
    """What a decoder is built on: strides 1, 2, 4, ... and the channels of each, 0 where the backbone has no map."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]


Parts = tuple[nn.Module, nn.Module]


def unet(
    pyramid: Pyramid,
    classes: int,
    decoder_channels: Sequence[int] = (256, 128, 64, 32, 16),
    attention_type: str | None = None,
    interpolation: str = "nearest",
) -> Parts:
    """U-Net: upsample, join the skip, convolve, up to the full size.

    Source: Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597
    """
    depth = len(pyramid.channels) - 1
    channels = list(decoder_channels)
    if len(channels) < depth:
        raise ValueError(
            f"head.decoder_channels has {len(channels)} entries; this backbone's {depth} levels need {depth}."
        )
    channels = channels[:depth]
    decoder = UnetDecoder(
        encoder_channels=pyramid.channels,
        decoder_channels=channels,
        n_blocks=depth,
        attention_type=attention_type,
        interpolation_mode=interpolation,
    )
    return decoder, SegmentationHead(channels[-1], classes, kernel_size=3)


def fpn(
    pyramid: Pyramid,
    classes: int,
    pyramid_channels: int = 256,
    segmentation_channels: int = 128,
    merge_policy: str = "add",
    dropout: float = 0.2,
) -> Parts:
    """Feature pyramid network, summed at stride 4.

    Source: Kirillov et al. 2019, https://arxiv.org/abs/1901.02446
    """
    if segmentation_channels % 32:
        raise ValueError(f"head.segmentation_channels={segmentation_channels}: its group norms need a multiple of 32.")
    decoder = FPNDecoder(
        encoder_channels=pyramid.channels,
        encoder_depth=len(pyramid.channels) - 1,
        pyramid_channels=pyramid_channels,
        segmentation_channels=segmentation_channels,
        merge_policy=merge_policy,
        dropout=dropout,
    )
    finest = pyramid.strides[-4]
    return decoder, SegmentationHead(decoder.out_channels, classes, kernel_size=1, upsampling=finest)


def deeplabv3plus(
    pyramid: Pyramid,
    classes: int,
    decoder_channels: int = 256,
    atrous_rates: Sequence[int] = (12, 24, 36),
    dropout: float = 0.5,
) -> Parts:
    """DeepLabV3+: atrous pooling on the coarsest map, joined with the map of stride 4.

    Source: Chen et al. 2018, https://arxiv.org/abs/1802.02611
    """
    decoder = DeepLabV3PlusDecoder(
        encoder_channels=pyramid.channels,
        encoder_depth=len(pyramid.channels) - 1,
        out_channels=decoder_channels,
        atrous_rates=tuple(atrous_rates),
        output_stride=16,
        aspp_separable=True,
        aspp_dropout=dropout,
    )
    # a backbone that cannot be dilated stays at stride 32, where the decoder's own factor of 4 would not fit
    decoder.up = nn.Upsample(
        mode="bilinear", scale_factor=pyramid.strides[-1] // pyramid.strides[2], align_corners=True
    )
    return decoder, SegmentationHead(decoder_channels, classes, kernel_size=1, upsampling=pyramid.strides[2])


@dataclass(frozen=True)
class HeadType:
    """A head that users can name.

    Attributes:
        build: makes decoder and classifier from a pyramid, a number of classes and the head's options.
        output_stride: of the backbone that the head is made for.
        pools_to_a_pixel: batch norm then sees one value an image, so training needs two images a batch.
    """

    build: Callable[..., Parts]
    output_stride: int = 32
    pools_to_a_pixel: bool = False

    def options(self) -> list[str]:
        """Names of the head's options."""
        return list(inspect.signature(self.build).parameters)[2:]


HEADS: dict[str, HeadType] = {
    "unet": HeadType(unet),
    "fpn": HeadType(fpn),
    "deeplabv3plus": HeadType(deeplabv3plus, output_stride=16, pools_to_a_pixel=True),
}


def head_type(name: str) -> HeadType:
    """The head of that name.

    Raises:
        ValueError: no such head; the nearest names are shown.
    """
    if name not in HEADS:
        near = difflib.get_close_matches(name, HEADS, n=3)
        hint = f"Did you mean {', '.join(near)}? " if near else ""
        raise ValueError(f"unknown head '{name}'. {hint}There are {', '.join(HEADS)}.")
    return HEADS[name]
