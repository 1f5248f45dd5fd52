"""Between backbone and head: makes the pyramid that decoders expect out of the maps that a backbone has.

A neck takes the images and the backbone's feature maps and returns what the decoder reads. `PyramidNeck` serves every
backbone whose strides are powers of two; one for backbones of a single resolution goes beside it.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from finetune.models.backbone import STRIDES


class PyramidNeck(nn.Module):
    """Images and feature maps as one dense pyramid of strides 1, 2, 4, ... up to the coarsest map.

    Strides that the backbone lacks (ConvNeXt begins at 4) become maps with zero channels, which every decoder
    concatenates for free; it is the layout of segmentation_models_pytorch.

    Args:
        in_channels: channels of the images.
        channels: channels of the backbone's maps, fine to coarse.
        strides: their strides.
    """

    def __init__(self, in_channels: int, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        width = dict(zip(strides, channels, strict=True))
        self.strides = tuple(stride for stride in STRIDES if stride <= strides[-1])
        self.present = tuple(stride in width for stride in self.strides)
        self.channels = (in_channels, *(width.get(stride, 0) for stride in self.strides))

    def forward(self, images: Tensor, features: list[Tensor]) -> list[Tensor]:
        """Images (B, C, H, W) and the feature maps as a list [stride 1, stride 2, stride 4, ...]."""
        found = iter(features)
        height, width = images.shape[-2:]
        pyramid = [images]
        for stride, present in zip(self.strides, self.present, strict=True):
            empty = images.new_empty(images.shape[0], 0, height // stride, width // stride)
            pyramid.append(next(found) if present else empty)
        return pyramid
