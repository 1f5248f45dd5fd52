"""Linear probe: measures what the backbone has learned, without further layers."""

from collections.abc import Sequence

from torch import Tensor, nn

from finetune.models.heads.classifier import classifier
from finetune.models.heads.concat_features import concat_features, select_levels
from finetune.models.heads.pyramid import DecoderAndHead, PyramidSpec


def linear(pyramid: PyramidSpec, classes: int, strides: Sequence[int] = (4, 8, 16, 32)) -> DecoderAndHead:
    """Build the linear probe of DINOv2: batch norm and a 1x1 convolution on maps resized to the finest.

    Each map is normalized at its own size, which saves memory. A single coarse map is cheaper still.

    Source: Oquab et al. 2023, https://arxiv.org/abs/2304.07193
    """
    levels = select_levels(pyramid, strides)
    decoder = NormalizedMaps(pyramid.channels, levels)
    return decoder, classifier(sum(pyramid.channels[i] for i in levels), classes, pyramid.strides[levels[0]])


class NormalizedMaps(nn.Module):
    """Maps of several levels, each with its own batch norm, concatenated.

    Args:
        channels: channels of the pyramid.
        levels: levels of the maps, fine to coarse.
    """

    def __init__(self, channels: Sequence[int], levels: tuple[int, ...]) -> None:
        super().__init__()
        self.levels = levels
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels[level]) for level in levels)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return all channels (B, C, h, w) at the size of the finest map."""
        return concat_features([norm(features[level]) for norm, level in zip(self.norms, self.levels, strict=True)])
