"""The head of HRNetV2: all resolutions concatenated."""

from collections.abc import Sequence

from segmentation_models_pytorch.base.modules import Conv2dReLU
from torch import Tensor, nn

from finetune.models.heads.classifier import classifier
from finetune.models.heads.concat_features import concat_features, select_levels
from finetune.models.heads.pyramid import DecoderAndHead, PyramidSpec
from finetune.models.heads.validation import check_counts


def hrnet(
    pyramid: PyramidSpec, classes: int, channels: int | None = 512, strides: Sequence[int] = (4, 8, 16, 32)
) -> DecoderAndHead:
    """Build HRNetV2's head: maps resized to the finest and mixed by a 1x1 convolution.

    With `channels=None`, the output has as many channels as all maps together, as in the paper. There, the maps are the
    branches themselves, with 270 channels in the narrowest network; timm returns HRNet's maps after its classifier has
    widened them to 1920 channels in all, and a ResNet-50 has 3840.

    Source: Sun et al. 2019, https://arxiv.org/abs/1904.04514
    """
    levels = select_levels(pyramid, strides)
    in_channels = sum(pyramid.channels[level] for level in levels)
    out_channels = in_channels if channels is None else channels
    check_counts(channels=out_channels)
    return MixedMaps(levels, in_channels, out_channels), classifier(out_channels, classes, pyramid.strides[levels[0]])


class MixedMaps(nn.Module):
    """Concatenated maps of several levels, mixed by a 1x1 convolution.

    Args:
        levels: levels of the maps, fine to coarse.
        in_channels: channels of all maps together.
        out_channels: channels of the mixed map.
    """

    def __init__(self, levels: tuple[int, ...], in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.levels = levels
        self.mix = Conv2dReLU(in_channels, out_channels, kernel_size=1)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return the mixed map (B, out_channels, h, w) at the size of the finest map."""
        mixed: Tensor = self.mix(concat_features([features[level] for level in self.levels]))
        return mixed
