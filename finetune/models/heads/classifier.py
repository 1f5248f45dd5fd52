"""The last step of our own heads: a score for each class, brought to the size of the images."""

from torch import nn


def classifier(channels: int, classes: int, stride: int, kernel_size: int = 1) -> nn.Sequential:
    """A convolution and bilinear upsampling.

    Args:
        channels: of the decoder's map.
        classes: how many.
        stride: of the decoder's map.
        kernel_size: of the convolution, odd.
    """
    layers: list[nn.Module] = [nn.Conv2d(channels, classes, kernel_size, padding=kernel_size // 2)]
    if stride > 1:
        layers.append(nn.Upsample(scale_factor=stride, mode="bilinear", align_corners=False))
    return nn.Sequential(*layers)
