"""OCR (object-contextual representations): each pixel attends to the object regions."""

from collections.abc import Sequence

import torch
from segmentation_models_pytorch.base.modules import Conv2dReLU
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.models.heads.classifier import classifier
from finetune.models.heads.concat_features import concat_features, select_levels
from finetune.models.heads.pyramid import DecoderAndHead, PyramidSpec, resize_to_images
from finetune.models.heads.validation import check_counts, check_fraction


def ocr(
    pyramid: PyramidSpec,
    classes: int,
    channels: int = 512,
    key_channels: int = 256,
    strides: Sequence[int] = (4, 8, 16, 32),
    dropout: float = 0.05,
) -> DecoderAndHead:
    """Build OCR: coarse logits divide the image into soft regions, whose mean features every pixel attends to.

    Train the coarse logits with an auxiliary loss, on the output of `forward_with_auxiliary`.

    Source: Yuan et al. 2020, https://arxiv.org/abs/1909.11065
    """
    check_counts(channels=channels, key_channels=key_channels)
    check_fraction(dropout=dropout)
    levels = select_levels(pyramid, strides)
    in_channels = sum(pyramid.channels[level] for level in levels)
    decoder = ObjectContext(levels, in_channels, classes, channels, key_channels, dropout)
    return decoder, classifier(channels, classes, pyramid.strides[levels[0]])


class ObjectContext(nn.Module):
    """Maps of several levels, combined with the context of the object regions at each pixel.

    Args:
        levels: levels of the maps, fine to coarse.
        in_channels: channels of all maps together.
        classes: number of regions, one per class.
        channels: channels of a pixel and of a region.
        key_channels: channels of queries and keys.
        dropout: fraction of channels dropped at the end.
    """

    def __init__(
        self, levels: tuple[int, ...], in_channels: int, classes: int, channels: int, key_channels: int, dropout: float
    ) -> None:
        super().__init__()
        self.levels = levels
        self.guess = nn.Sequential(Conv2dReLU(in_channels, channels, 1), nn.Conv2d(channels, classes, 1))
        self.pixels = Conv2dReLU(in_channels, channels, kernel_size=3, padding=1)
        self.relation = Relation(channels, key_channels)
        self.join = Conv2dReLU(2 * channels, channels, kernel_size=1)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return a map (B, channels, h, w) at the size of the finest map."""
        return self._map_and_coarse_logits(features)[0]

    def forward_with_auxiliary(self, features: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Return the map of `forward`, and the coarse logits at the size of the images."""
        x, scores = self._map_and_coarse_logits(features)
        return x, [resize_to_images(scores, features[0])]

    def _map_and_coarse_logits(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        joined = concat_features([features[level] for level in self.levels])
        scores, pixels = self.guess(joined), self.pixels(joined)
        context = self.relation(pixels, region_means(pixels, scores))
        return self.dropout(self.join(torch.cat([context, pixels], dim=1))), scores


class Relation(nn.Module):
    """Attention of pixels to regions.

    Args:
        channels: channels of pixels and regions.
        key_channels: channels of queries, keys and values.
    """

    def __init__(self, channels: int, key_channels: int) -> None:
        super().__init__()
        self.query = nn.Sequential(Conv2dReLU(channels, key_channels, 1), Conv2dReLU(key_channels, key_channels, 1))
        self.key = nn.Sequential(Conv2dReLU(channels, key_channels, 1), Conv2dReLU(key_channels, key_channels, 1))
        self.value = Conv2dReLU(channels, key_channels, 1)
        self.widen = Conv2dReLU(key_channels, channels, 1)

    def forward(self, pixels: Tensor, regions: Tensor) -> Tensor:
        """Return the context (B, C, H, W) of pixels (B, C, H, W) from regions (B, regions, C)."""
        columns = regions.transpose(1, 2).unsqueeze(-1)  # as an image of one column, for convolutions and norms
        query, key, value = (
            layer(x).flatten(2).transpose(1, 2)
            for layer, x in ((self.query, pixels), (self.key, columns), (self.value, columns))
        )
        context = F.scaled_dot_product_attention(query, key, value)
        # shape[0], not len(): len() is an int, to which torch.export would fix the batch size
        widened: Tensor = self.widen(context.transpose(1, 2).reshape(pixels.shape[0], -1, *pixels.shape[-2:]))
        return widened


def region_means(pixels: Tensor, scores: Tensor) -> Tensor:
    """Return the mean features of each region over all pixels, weighted by the softmax of their scores.

    Args:
        pixels: features (B, C, H, W).
        scores: scores of the regions (B, regions, H, W).

    Returns:
        (B, regions, C).
    """
    weights = scores.flatten(2).softmax(dim=2)
    return weights @ pixels.flatten(2).transpose(1, 2)
