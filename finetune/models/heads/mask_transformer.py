"""Segmenter's mask transformer: classes are tokens among those of the picture."""

import torch
from timm.layers import build_sincos2d_pos_embed
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.models.heads.pyramid import DecoderAndHead, PyramidSpec
from finetune.models.heads.validation import check_counts, check_share

SCALE = 10.0  # to begin with, from a cosine to logits


def mask_transformer(
    pyramid: PyramidSpec,
    classes: int,
    channels: int = 256,
    layers: int = 2,
    attention_heads: int = 8,
    stride: int = 16,
    dropout: float = 0.1,
) -> DecoderAndHead:
    """Mask transformer: attention among pixels and one token a class, whose likeness to each pixel is the class's mask.

    It reads the deepest map of a stride. Two things differ from the paper. Sinusoidal positions are added, as not every
    backbone's features know where they are. Cosines become logits by a scale and a bias a class and not by a layer norm
    over the classes, which makes of two classes nothing but a sign.

    Source: Strudel et al. 2021, https://arxiv.org/abs/2105.05633
    """
    check_counts(channels=channels, layers=layers, attention_heads=attention_heads)
    check_share(dropout=dropout)
    if channels % 4 or channels % attention_heads:
        raise ValueError(
            f"head.channels={channels}: expected a multiple of 4, for the positions, and of "
            f"head.attention_heads={attention_heads}."
        )
    level = pyramid.deepest(stride)
    decoder = MaskTransformer(level, pyramid.channels[level], classes, channels, layers, attention_heads, dropout)
    upsample = nn.Upsample(scale_factor=stride, mode="bilinear", align_corners=False)
    return decoder, nn.Sequential(ClassScale(classes), upsample)


class MaskTransformer(nn.Module):
    """Transformer layers on the pixels of one level and a token for each class.

    Args:
        level: of the map.
        in_channels: of the map.
        classes: how many.
        channels: of a token.
        layers: how many.
        attention_heads: of each layer.
        dropout: share of what each layer adds.
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
        """Cosines (B, classes, h, w) of pixels and classes, in the size of the level."""
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
        classes: how many.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((classes,), SCALE))
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, x: Tensor) -> Tensor:
        """Scores (B, classes, h, w), each class's scaled and shifted."""
        return x * self.weight[:, None, None] + self.bias[:, None, None]
