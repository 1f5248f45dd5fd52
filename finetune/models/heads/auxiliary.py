"""A small head beside the one that is asked: a shorter way for the loss to the middle of the backbone."""

from torch import Tensor, nn

from finetune.models.heads.classifier import classifier
from finetune.models.heads.fcn import Convolutions
from finetune.models.heads.pyramid import COARSE, PyramidSpec, like_images
from finetune.models.heads.validation import check_choice, check_counts, check_share


class AuxiliaryHead(nn.Module):
    """An FCN on one map of a pyramid, whose logits are learned from and never asked for.

    Args:
        pyramid: that it reads.
        classes: how many.
        level: of the map, 2 to 5; the last but one has what the coarsest layers are built on.
        channels: of each convolution.
        convolutions: how many.
        dropout: share of the channels, at the end.

    Source: Zhao et al. 2017, https://arxiv.org/abs/1612.01105
    """

    def __init__(
        self,
        pyramid: PyramidSpec,
        classes: int,
        level: int = 4,
        channels: int = 256,
        convolutions: int = 1,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        check_choice("level", level, COARSE, group="auxiliary")
        check_counts("auxiliary", channels=channels, convolutions=convolutions)
        check_share("auxiliary", dropout=dropout)
        self.levels = (level,)
        self.decoder = Convolutions(level, pyramid.channels[level], channels, convolutions, 3, False, dropout)
        self.head = classifier(channels, classes, stride=1)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Logits (B, classes, H, W) at the size of the images."""
        return like_images(self.head(self.decoder(features)), features[0])
