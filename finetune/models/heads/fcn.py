"""FCN (fully convolutional network): a few convolutions on one map."""

import torch
from segmentation_models_pytorch.base.modules import Conv2dReLU
from torch import Tensor, nn

from finetune.models.heads.classifier import classifier
from finetune.models.heads.pyramid import DecoderAndHead, PyramidSpec
from finetune.models.heads.validation import check_counts, check_flags, check_fraction


def fcn(
    pyramid: PyramidSpec,
    classes: int,
    channels: int = 512,
    convolutions: int = 2,
    kernel_size: int = 3,
    concat_input: bool = True,
    stride: int | None = None,
    dropout: float = 0.1,
) -> DecoderAndHead:
    """Build FCN: convolutions on one map, by default the deepest, of stride 8 if the backbone can be dilated.

    With `concat_input`, one more convolution combines their output with the map itself, as is common since PSPNet.

    Source: Long et al. 2015, https://arxiv.org/abs/1411.4038
    """
    check_counts(channels=channels, convolutions=convolutions, kernel_size=kernel_size)
    check_flags(concat_input=concat_input)
    check_fraction(dropout=dropout)
    if kernel_size % 2 == 0:
        raise ValueError(f"head.kernel_size={kernel_size}: expected an odd number, which keeps the size of maps.")
    level = len(pyramid.strides) - 1 if stride is None else pyramid.deepest_level(stride)
    decoder = Convolutions(level, pyramid.channels[level], channels, convolutions, kernel_size, concat_input, dropout)
    return decoder, classifier(channels, classes, pyramid.strides[level])


class Convolutions(nn.Module):
    """Convolutions on one level of a pyramid.

    Args:
        level: level of the map.
        in_channels: channels of the map.
        channels: channels of each convolution.
        convolutions: number of convolutions.
        kernel_size: kernel size of each convolution.
        concat_input: whether one more convolution combines their output with the map.
        dropout: fraction of channels dropped at the end.
    """

    def __init__(
        self,
        level: int,
        in_channels: int,
        channels: int,
        convolutions: int,
        kernel_size: int,
        concat_input: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.levels = (level,)
        padding = kernel_size // 2
        widths = [in_channels] + [channels] * (convolutions - 1)
        self.convolutions = nn.Sequential(*(Conv2dReLU(width, channels, kernel_size, padding) for width in widths))
        joined = in_channels + channels
        self.join = Conv2dReLU(joined, channels, kernel_size, padding) if concat_input else None
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return a map (B, channels, h, w) of the level's size."""
        x = features[self.levels[0]]
        convolved: Tensor = self.convolutions(x)
        if self.join is not None:
            convolved = self.join(torch.cat([x, convolved], dim=1))
        dropped: Tensor = self.dropout(convolved)
        return dropped
