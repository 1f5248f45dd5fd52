"""The head of HRNetV2: all resolutions at once."""

from collections.abc import Sequence

from segmentation_models_pytorch.base.modules import Conv2dReLU
from torch import Tensor, nn

from finetune.models.heads.classifier import classifier
from finetune.models.heads.concat_features import chosen_levels, concatenate
from finetune.models.heads.pyramid import DecoderAndHead, PyramidSpec
from finetune.models.heads.validation import check_counts


def hrnet(
    pyramid: PyramidSpec, classes: int, channels: int | None = 512, strides: Sequence[int] = (4, 8, 16, 32)
) -> DecoderAndHead:
    """HRNetV2's head: maps brought to the finest of them, mixed by a 1x1 convolution.

    The paper mixes them into as many channels as they have together, which `channels=None` does. Its are the branches
    themselves, of 270 channels in the narrowest network; timm hands out HRNet's maps as its classifier widens them, to
    1920 together, and a ResNet-50's have 3840.

    Source: Sun et al. 2019, https://arxiv.org/abs/1904.04514
    """
    levels = chosen_levels(pyramid, strides)
    together = sum(pyramid.channels[level] for level in levels)
    mixed = together if channels is None else channels
    check_counts(channels=mixed)
    return MixedMaps(levels, together, mixed), classifier(mixed, classes, pyramid.strides[levels[0]])


class MixedMaps(nn.Module):
    """Maps of some levels, mixed pixel by pixel.

    Args:
        levels: fine to coarse.
        together: channels of all maps.
        channels: that they are mixed into.
    """

    def __init__(self, levels: tuple[int, ...], together: int, channels: int) -> None:
        super().__init__()
        self.levels = levels
        self.mix = Conv2dReLU(together, channels, kernel_size=1)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Map (B, channels, h, w) at the size of the finest of the maps."""
        mixed: Tensor = self.mix(concatenate([features[level] for level in self.levels]))
        return mixed
