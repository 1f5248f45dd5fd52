"""Object-contextual representations: each pixel sees the object that it is part of."""

from collections.abc import Sequence

import torch
from segmentation_models_pytorch.base.modules import Conv2dReLU
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.models.heads.classifier import classifier
from finetune.models.heads.concat_features import chosen_levels, concatenate
from finetune.models.heads.pyramid import DecoderAndHead, PyramidSpec, like_images
from finetune.models.heads.validation import check_counts, check_share


def ocr(
    pyramid: PyramidSpec,
    classes: int,
    channels: int = 512,
    key_channels: int = 256,
    strides: Sequence[int] = (4, 8, 16, 32),
    dropout: float = 0.05,
) -> DecoderAndHead:
    """OCR: a first guess divides the picture into soft regions, whose mean features every pixel then attends to.

    The first guess is to be trained by a loss of its own, on `forward_with_auxiliary`.

    Source: Yuan et al. 2020, https://arxiv.org/abs/1909.11065
    """
    check_counts(channels=channels, key_channels=key_channels)
    check_share(dropout=dropout)
    levels = chosen_levels(pyramid, strides)
    together = sum(pyramid.channels[level] for level in levels)
    decoder = ObjectContext(levels, together, classes, channels, key_channels, dropout)
    return decoder, classifier(channels, classes, pyramid.strides[levels[0]])


class ObjectContext(nn.Module):
    """Maps of some levels, joined with what is known of the object at each pixel.

    Args:
        levels: fine to coarse.
        together: channels of all maps.
        classes: how many regions there are.
        channels: of a pixel and of a region.
        key_channels: in which pixels and regions are compared.
        dropout: share of the channels, at the end.
    """

    def __init__(
        self, levels: tuple[int, ...], together: int, classes: int, channels: int, key_channels: int, dropout: float
    ) -> None:
        super().__init__()
        self.levels = levels
        self.guess = nn.Sequential(Conv2dReLU(together, channels, 1), nn.Conv2d(channels, classes, 1))
        self.pixels = Conv2dReLU(together, channels, kernel_size=3, padding=1)
        self.relation = Relation(channels, key_channels)
        self.join = Conv2dReLU(2 * channels, channels, kernel_size=1)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Map (B, channels, h, w) at the size of the finest of the maps."""
        return self._map_and_guess(features)[0]

    def forward_with_auxiliary(self, features: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """What `forward` returns, and the logits of the first guess, at the size of the images."""
        x, scores = self._map_and_guess(features)
        return x, [like_images(scores, features[0])]

    def _map_and_guess(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        together = concatenate([features[level] for level in self.levels])
        scores, pixels = self.guess(together), self.pixels(together)
        context = self.relation(pixels, region_means(pixels, scores))
        return self.dropout(self.join(torch.cat([context, pixels], dim=1))), scores


class Relation(nn.Module):
    """What each pixel learns from the regions: their values, weighed by how much alike they are.

    Args:
        channels: of pixels and regions.
        key_channels: in which they are compared.
    """

    def __init__(self, channels: int, key_channels: int) -> None:
        super().__init__()
        self.query = nn.Sequential(Conv2dReLU(channels, key_channels, 1), Conv2dReLU(key_channels, key_channels, 1))
        self.key = nn.Sequential(Conv2dReLU(channels, key_channels, 1), Conv2dReLU(key_channels, key_channels, 1))
        self.value = Conv2dReLU(channels, key_channels, 1)
        self.widen = Conv2dReLU(key_channels, channels, 1)

    def forward(self, pixels: Tensor, regions: Tensor) -> Tensor:
        """Context (B, C, H, W) of pixels (B, C, H, W) by regions (B, regions, C)."""
        columns = regions.transpose(1, 2).unsqueeze(-1)  # as a picture one pixel wide, for convolutions and norms
        query, key, value = (
            layer(x).flatten(2).transpose(1, 2)
            for layer, x in ((self.query, pixels), (self.key, columns), (self.value, columns))
        )
        context = F.scaled_dot_product_attention(query, key, value)
        # by its shape and not by len(), an int to which torch.export would fix the batch
        widened: Tensor = self.widen(context.transpose(1, 2).reshape(pixels.shape[0], -1, *pixels.shape[-2:]))
        return widened


def region_means(pixels: Tensor, scores: Tensor) -> Tensor:
    """Mean features of each region, over all pixels, weighed by the softmax of their scores.

    Args:
        pixels: features (B, C, H, W).
        scores: of the regions (B, regions, H, W).

    Returns:
        (B, regions, C).
    """
    weights = scores.flatten(2).softmax(dim=2)
    return weights @ pixels.flatten(2).transpose(1, 2)
