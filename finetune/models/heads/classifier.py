"""The classifier of our own heads: a score per class, upsampled to the size of the images."""

from torch import nn


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
