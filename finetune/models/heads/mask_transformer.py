"""Mask transformer of Segmenter: classes are tokens among the tokens of the image."""

import torch
from timm.layers import build_sincos2d_pos_embed
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.models.heads.pyramid import DecoderAndHead, PyramidSpec
from finetune.models.heads.validation import check_counts, check_fraction

INITIAL_SCALE = 10.0  # from cosines to logits


def mask_transformer(
    pyramid: PyramidSpec,
    classes: int,
    channels: int = 256,
    layers: int = 2,
    attention_heads: int = 8,
    stride: int = 16,
    dropout: float = 0.1,
) -> DecoderAndHead:
    """Build a mask transformer: attention among pixels and class tokens; their similarity is the mask of a class.

    It reads the deepest map of a stride. It differs from the paper in two ways. Sinusoidal positions are added, because
    not every backbone's features encode positions. Cosines become logits by a scale and a bias per class instead of a
    layer norm over the classes, which would reduce two classes to a sign.

    Source: Strudel et al. 2021, https://arxiv.org/abs/2105.05633
    """
    check_counts(channels=channels, layers=layers, attention_heads=attention_heads)
    check_fraction(dropout=dropout)
    if channels % 4 or channels % attention_heads:
        raise ValueError(
            f"head.channels={channels}: expected a multiple of 4, for the position encoding, and of "
            f"head.attention_heads={attention_heads}."
        )
    level = pyramid.deepest_level(stride)
    decoder = MaskTransformer(level, pyramid.channels[level], classes, channels, layers, attention_heads, dropout)
    upsample = nn.Upsample(scale_factor=stride, mode="bilinear", align_corners=False)
    return decoder, nn.Sequential(ClassScale(classes), upsample)


class MaskTransformer(nn.Module):
    """Transformer layers on the pixels of one level and a token for each class.

    Args:
        level: level of the map.
        in_channels: channels of the map.
        classes: number of classes.
        channels: channels of a token.
        layers: number of transformer layers.
        attention_heads: attention heads of each layer.
        dropout: dropout rate of the output of each layer.
    """

    def __init__(
        self,
        level: int,
        in_channels: int,
        classes: int,
        channels: int,
        layers: int,
        attention_heads: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.levels = (level,)
        self.enter = nn.Sequential(nn.LayerNorm(in_channels), nn.Linear(in_channels, channels))
        self.class_tokens = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, classes, channels), std=0.02))
        self.blocks = nn.Sequential(
            *(Block(channels, attention_heads, qkv_bias=True, proj_drop=dropout) for _ in range(layers))
        )
        self.norm = nn.LayerNorm(channels)
        self.of_pixels = nn.Linear(channels, channels, bias=False)
        self.of_classes = nn.Linear(channels, channels, bias=False)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return cosines (B, classes, h, w) of pixels and classes, at the size of the level."""
        x = features[self.levels[0]]
        batch, _, height, width = x.shape
        pixels = self.enter(x.flatten(2).transpose(1, 2))
        positions = build_sincos2d_pos_embed([height, width], pixels.shape[-1], device=x.device, dtype=pixels.dtype)
        tokens = torch.cat([pixels + positions, self.class_tokens.expand(batch, -1, -1)], dim=1)
        tokens = self.norm(self.blocks(tokens))
        pixels = F.normalize(self.of_pixels(tokens[:, : height * width]), dim=-1)
        classes = F.normalize(self.of_classes(tokens[:, height * width :]), dim=-1)
        cosines: Tensor = classes @ pixels.transpose(1, 2)
        return cosines.reshape(batch, -1, height, width)


class ClassScale(nn.Module):
    """A scale and a bias for each class.

    Args:
        classes: number of classes.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((classes,), INITIAL_SCALE))
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores (B, classes, h, w), scaled and shifted per class."""
        return x * self.weight[:, None, None] + self.bias[:, None, None]
