"""The classifiers of our own heads: a score per class, upsampled to the size of the images."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F


def classifier(channels: int, classes: int, stride: int, kernel_size: int = 1) -> nn.Sequential:
    """Return a convolution followed by bilinear upsampling.

    Args:
        channels: channels of the decoder's map.
        classes: number of classes.
        stride: stride of the decoder's map.
        kernel_size: kernel size of the convolution, odd.
    """
    layers: list[nn.Module] = [nn.Conv2d(channels, classes, kernel_size, padding=kernel_size // 2)]
    if stride > 1:
        layers.append(nn.Upsample(scale_factor=stride, mode="bilinear", align_corners=False))
    return nn.Sequential(*layers)


class SummedClassifiers(nn.Module):
    """A classifier on each map of a decoder; the logits of each are upsampled and added to those of the next finer one.

    So classes are told apart by coarse maps of many channels too, and not only by the few channels of the finest.

    Args:
        channels: channels of the maps, coarse to fine.
        classes: number of classes.
        stride: stride of the last map.

    Source: Long et al. 2015, https://arxiv.org/abs/1411.4038, for the maps of a backbone.
    """

    def __init__(self, channels: Sequence[int], classes: int, stride: int) -> None:
        super().__init__()
        *coarse, last = channels
        sides = [*((width, 1) for width in coarse), (last, 3)]
        self.layers = nn.ModuleList(nn.Conv2d(width, classes, side, padding=side // 2) for width, side in sides)
        self.stride = stride

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return logits (B, classes, H, W) of maps (B, C, h, w), coarse to fine."""
        first, *others = [classify(x) for classify, x in zip(self.layers, maps, strict=True)]
        total: Tensor = first
        for scores in others:
            total = scores + F.interpolate(total, scores.shape[-2:], mode="bilinear", align_corners=False)
        if self.stride == 1:
            return total
        return F.interpolate(total, scale_factor=self.stride, mode="bilinear", align_corners=False)
