"""SegNet: unpooling with the indices of the backbone's max-poolings."""

from collections.abc import Sequence
from typing import Any

from segmentation_models_pytorch.base.modules import Conv2dReLU
from torch import Tensor, nn

from finetune.models.heads.classifier import classifier
from finetune.models.heads.pyramid import DecoderAndHead, PyramidSpec
from finetune.models.heads.validation import check_length


def segnet(pyramid: PyramidSpec, classes: int, convolutions: Sequence[int] = (3, 3, 3, 2, 1)) -> DecoderAndHead:
    """Build SegNet: unpool each map with the indices of its maxima, then convolve, up to the full size.

    It reads the coarsest map, and the indices of five poolings of 2x2 from the seventh element of the pyramid's list.

    Source: Badrinarayanan et al. 2017, https://arxiv.org/abs/1511.00561
    """
    poolings = len(pyramid.strides) - 1
    if len(pyramid.pools) != poolings or pyramid.pools[-1] != pyramid.channels[-1]:
        raise ValueError(
            f"head=segnet needs the indices of {poolings} max-poolings of 2x2, which this backbone does not have. "
            f"Choose vgg11, vgg13, vgg16, vgg19 (or their _bn), or another head, such as unet."
        )
    check_length(poolings, convolutions=convolutions)
    return Unpooling(pyramid.pools, convolutions), classifier(pyramid.pools[0], classes, 1, kernel_size=3)


class Unpooling(nn.Module):
    """Unpooling and convolutions, once per pooling of the backbone.

    Args:
        pools: channels of the maps that were pooled, fine to coarse.
        convolutions: number of 3x3 convolutions after each unpooling, coarse to fine; the last one has the channels of
            the next pooling.
    """

    levels = (5,)

    def __init__(self, pools: Sequence[int], convolutions: Sequence[int]) -> None:
        super().__init__()
        widths = list(reversed(pools))
        next_widths = [*widths[1:], widths[-1]]
        self.blocks = nn.ModuleList(
            nn.Sequential(*(Conv2dReLU(width, next_width if i == count - 1 else width, 3, 1) for i in range(count)))
            for width, next_width, count in zip(widths, next_widths, convolutions, strict=True)
        )

    def forward(self, features: list[Any]) -> Tensor:
        """Return a map (B, C, H, W) at the size of the images; the seventh element are the indices, fine to coarse."""
        x: Tensor = features[5]
        for block, indices in zip(self.blocks, reversed(features[6]), strict=True):
            x = block(unpool(x, indices))
        return x


def unpool(maxima: Tensor, indices: Tensor) -> Tensor:
    """Undo a max-pooling of 2x2: return a map twice as large with the maxima at their positions and zeros elsewhere.

    torch's `max_unpool2d` does the same, but not in every dtype, and not deterministically on a GPU.

    Args:
        maxima: (B, C, h, w).
        indices: (B, C, h, w), int64, positions in the flattened map of 2h x 2w.

    >>> import torch
    >>> unpool(torch.tensor([[[[7.0, 9.0]]]]), torch.tensor([[[[5, 2]]]]))
    tensor([[[[0., 0., 9., 0.],
              [0., 7., 0., 0.]]]])
    """
    batch, channels, height, width = maxima.shape
    empty = maxima.new_zeros(batch, channels, 4 * height * width)
    filled = empty.scatter(2, indices.flatten(2), maxima.flatten(2))
    return filled.view(batch, channels, 2 * height, 2 * width)
