"""U-Net, optionally with deep supervision."""

from collections.abc import Sequence
from typing import Any

from segmentation_models_pytorch.base.heads import SegmentationHead
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from torch import Tensor, nn

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
) -> DecoderAndHead:
    """Build U-Net: upsample, concatenate the skip, convolve, up to the full size.

    With fewer `decoder_channels` than levels, the last maps are left out: 4 end at stride 2 and 3 at stride 4, and the
    logits are upsampled.

    Source: Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597
    """
    check_depth(decoder_channels, len(pyramid.channels) - 1, fewest=FEWEST)
    check_flags(center=center, deep_supervision=deep_supervision)
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
    stride = pyramid.strides[len(encoder) - 1 - len(channels)]
    return decoder, SegmentationHead(channels[-1], classes, kernel_size=3, upsampling=stride)


class SupervisedUnet(UnetDecoder):  # type: ignore[misc]  # smp is not typed
    """smp's decoder, with a 1x1 classifier on each map before the last if `classes` is given.

    Source: Lee et al. 2015, https://arxiv.org/abs/1409.5185
    """

    levels: Sequence[int] = ALL_LEVELS

    def __init__(self, classes: int | None, decoder_channels: Sequence[int], **options: Any) -> None:
        super().__init__(decoder_channels=decoder_channels, **options)
        if len(self.blocks) == len(ALL_LEVELS):
            self.blocks[-1].attention1 = nn.Identity()  # for a skip, which the last step does not have
        widths = [] if classes is None else decoder_channels[:-1]
        self.classifiers = nn.ModuleList(nn.Conv2d(width, classes or 0, kernel_size=1) for width in widths)

    def forward_with_auxiliary(self, features: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Return the map of `forward`, and logits of the maps before it, coarse to fine, at the size of the images."""
        x: Tensor = self.center(features[-1])
        skips = [*features[-2:0:-1], None]
        maps = []
        for block, skip, finer in zip(self.blocks, skips, features[-2::-1], strict=False):  # a decoder may end early
            x = block(x, *finer.shape[-2:], skip_connection=skip)
            maps.append(x)
        logits = [classify(x) for classify, x in zip(self.classifiers, maps, strict=False)]
        return x, [resize_to_images(scores, features[0]) for scores in logits]
