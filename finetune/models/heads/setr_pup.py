"""SETR's progressive upsampling: never more than a factor of two at once."""

import math

from segmentation_models_pytorch.base.modules import Conv2dReLU
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from finetune.models.heads.classifier import classifier
from finetune.models.heads.pyramid import DecoderAndHead, PyramidSpec
from finetune.models.heads.validation import check_counts


def setr_pup(pyramid: PyramidSpec, classes: int, channels: int = 256, stride: int = 16) -> DecoderAndHead:
    """SETR-PUP: convolve and double until the full size, four times from the deepest map of stride 16.

    The last doubling follows the classifier, which is linear and so gives the same, at a quarter of the work.

    Source: Zheng et al. 2021, https://arxiv.org/abs/2012.15840
    """
    check_counts(channels=channels)
    level = pyramid.deepest(stride)
    decoder = ProgressiveUpsampling(level, pyramid.channels[level], channels, steps=round(math.log2(stride)))
    return decoder, classifier(channels, classes, stride=2)


class ProgressiveUpsampling(nn.Module):
    """Norm, then convolutions with a doubling between each two.

    Args:
        level: of the map.
        in_channels: of the map.
        channels: of each convolution.
        steps: how many convolutions.
    """

    def __init__(self, level: int, in_channels: int, channels: int, steps: int) -> None:
        super().__init__()
        self.levels = (level,)
        self.norm = LayerNorm2d(in_channels)
        widths = [in_channels] + [channels] * (steps - 1)
        self.convolutions = nn.ModuleList(Conv2dReLU(width, channels, kernel_size=3, padding=1) for width in widths)
        self.upsample = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Map (B, channels, H / 2, W / 2)."""
        x: Tensor = self.convolutions[0](self.norm(features[self.levels[0]]))
        for convolution in self.convolutions[1:]:
            x = convolution(self.upsample(x))
        return x
