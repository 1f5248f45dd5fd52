"""U-Net, optionally with a classifier on each map of its decoder."""

from collections.abc import Sequence
from typing import Any

from segmentation_models_pytorch.base.heads import SegmentationHead
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from torch import Tensor, nn

from finetune.models.heads.classifier import SummedClassifiers
from finetune.models.heads.pyramid import ALL_LEVELS, DecoderAndHead, PyramidSpec, resize_to_images
from finetune.models.heads.validation import (
    Norm,
    check_attention,
    check_depth,
    check_flags,
    check_interpolation,
    check_norm,
)

FEWEST = 3  # maps of the decoder: the logits of 3 have stride 4


def unet(
    pyramid: PyramidSpec,
    classes: int,
    decoder_channels: Sequence[int] = (256, 128, 64, 32, 16),
    attention_type: str | None = None,
    interpolation: str = "nearest",
    norm: Norm = "batchnorm",
    center: bool = False,
    deep_supervision: bool = False,
    sum_logits: bool = False,
) -> DecoderAndHead:
    """Build U-Net: upsample, concatenate the skip, convolve, up to the full size.

    With fewer `decoder_channels` than levels, the last maps are left out: 4 end at stride 2 and 3 at stride 4, and the
    logits are upsampled.

    With `sum_logits`, each map of the decoder has a classifier and their logits are summed (`SummedClassifiers`). It is
    off here, as in smp and in models that were saved before, and on in `conf/head/unet.yaml`.

    Source: Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597
    """
    check_depth(decoder_channels, len(pyramid.channels) - 1, fewest=FEWEST)
    check_flags(center=center, deep_supervision=deep_supervision, sum_logits=sum_logits)
    channels, encoder = list(decoder_channels), pyramid.channels
    inputs = [coarser + skip for coarser, skip in zip([encoder[-1], *channels], [*encoder[-2:0:-1], 0], strict=False)]
    check_attention(attention_type, [*channels, *inputs[: len(encoder) - 2]])
    check_interpolation(interpolation)
    check_norm(norm)
    decoder = SupervisedUnet(
        classes if deep_supervision else None,
        encoder_channels=encoder,
        decoder_channels=channels,
        n_blocks=len(channels),
        use_norm=norm,
        attention_type=attention_type,
        add_center_block=center,
        interpolation_mode=interpolation,
    )
    decoder.levels = ALL_LEVELS[max(0, len(ALL_LEVELS) - 1 - len(channels)) :]
    decoder.returns_all = sum_logits
    stride = pyramid.strides[len(encoder) - 1 - len(channels)]
    if sum_logits:
        return decoder, SummedClassifiers(channels, classes, stride)
    return decoder, SegmentationHead(channels[-1], classes, kernel_size=3, upsampling=stride)


class SupervisedUnet(UnetDecoder):  # type: ignore[misc]  # smp is not typed
    """smp's decoder, with a 1x1 classifier on each map before the last if `classes` is given.

    Source: Lee et al. 2015, https://arxiv.org/abs/1409.5185

    Attributes:
        returns_all: return the list of all maps, coarse to fine, instead of the last one.
    """

    levels: Sequence[int] = ALL_LEVELS
    returns_all = False

    def __init__(self, classes: int | None, decoder_channels: Sequence[int], **options: Any) -> None:
        super().__init__(decoder_channels=decoder_channels, **options)
        if len(self.blocks) == len(ALL_LEVELS):
            self.blocks[-1].attention1 = nn.Identity()  # for a skip, which the last step does not have
        widths = [] if classes is None else decoder_channels[:-1]
        self.classifiers = nn.ModuleList(nn.Conv2d(width, classes or 0, kernel_size=1) for width in widths)

    def forward(self, features: list[Tensor]) -> Tensor | list[Tensor]:
        """Return the last map (B, C, h, w), or all maps."""
        maps = self._maps(features)
        return maps if self.returns_all else maps[-1]

    def forward_with_auxiliary(self, features: list[Tensor]) -> tuple[Tensor | list[Tensor], list[Tensor]]:
        """Return what `forward` does, and logits (B, classes, H, W) of the maps before the last, coarse to fine."""
        maps = self._maps(features)
        logits = [classify(x) for classify, x in zip(self.classifiers, maps, strict=False)]
        resized = [resize_to_images(scores, features[0]) for scores in logits]
        return maps if self.returns_all else maps[-1], resized

    def _maps(self, features: list[Tensor]) -> list[Tensor]:
        x: Tensor = self.center(features[-1])
        skips, maps = [*features[-2:0:-1], None], []
        for block, skip, finer in zip(self.blocks, skips, features[-2::-1], strict=False):  # a decoder may end early
            x = block(x, *finer.shape[-2:], skip_connection=skip)
            maps.append(x)
        return maps
