"""SETR-PUP: progressive upsampling, by a factor of two at a time."""

import math

from segmentation_models_pytorch.base.modules import Conv2dReLU
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from finetune.models.heads.classifier import classifier
from finetune.models.heads.pyramid import DecoderAndHead, PyramidSpec
from finetune.models.heads.validation import check_counts


def setr_pup(pyramid: PyramidSpec, classes: int, channels: int = 256, stride: int = 16) -> DecoderAndHead:
    """Build SETR-PUP: convolve and upsample by two up to the full size, four times from the deepest map of stride 16.

    The last upsampling follows the classifier: both are linear, so the result is the same at a quarter of the cost.

    Source: Zheng et al. 2021, https://arxiv.org/abs/2012.15840
    """
    check_counts(channels=channels)
    level = pyramid.deepest_level(stride)
    decoder = ProgressiveUpsampling(level, pyramid.channels[level], channels, steps=round(math.log2(stride)))
    return decoder, classifier(channels, classes, stride=2)


class ProgressiveUpsampling(nn.Module):
    """A norm, then convolutions with upsampling by two in between.

    Args:
        level: level of the map.
        in_channels: channels of the map.
        channels: channels of each convolution.
        steps: number of convolutions.
    """

    def __init__(self, level: int, in_channels: int, channels: int, steps: int) -> None:
        super().__init__()
        self.levels = (level,)
        self.norm = LayerNorm2d(in_channels)
        widths = [in_channels] + [channels] * (steps - 1)
        self.convolutions = nn.ModuleList(Conv2dReLU(width, channels, kernel_size=3, padding=1) for width in widths)
        self.upsample = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return a map (B, channels, H / 2, W / 2)."""
        x: Tensor = self.convolutions[0](self.norm(features[self.levels[0]]))
        for convolution in self.convolutions[1:]:
            x = convolution(self.upsample(x))
        return x
