"""A linear probe: what the backbone knows already, with nothing added that could learn more."""

from collections.abc import Sequence

from torch import Tensor, nn

from finetune.models.heads.classifier import classifier
from finetune.models.heads.concat_features import chosen_levels, concatenate
from finetune.models.heads.pyramid import DecoderAndHead, PyramidSpec


def linear(pyramid: PyramidSpec, classes: int, strides: Sequence[int] = (4, 8, 16, 32)) -> DecoderAndHead:
    """Batch norm and a 1x1 convolution on maps brought to the finest of them: the linear probe of DINOv2.

    Each map is normalized at its own size, which spares memory. One coarse map alone is cheaper still.

    Source: Oquab et al. 2023, https://arxiv.org/abs/2304.07193
    """
    levels = chosen_levels(pyramid, strides)
    decoder = NormalizedMaps(pyramid.channels, levels)
    return decoder, classifier(sum(pyramid.channels[i] for i in levels), classes, pyramid.strides[levels[0]])


class NormalizedMaps(nn.Module):
    """Maps of some levels, each through its batch norm, as one.

    Args:
        channels: of the pyramid.
        levels: fine to coarse.
    """

    def __init__(self, channels: Sequence[int], levels: tuple[int, ...]) -> None:
        super().__init__()
        self.levels = levels
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels[level]) for level in levels)

    def forward(self, features: list[Tensor]) -> Tensor:
        """All channels (B, C, h, w) at the size of the finest of the maps."""
        return concatenate([norm(features[level]) for norm, level in zip(self.norms, self.levels, strict=True)])
