"""A small head for an auxiliary training loss: a shorter path for gradients to the middle of the backbone."""

from torch import Tensor, nn

from finetune.models.heads.classifier import classifier
from finetune.models.heads.fcn import Convolutions
from finetune.models.heads.pyramid import REQUIRED_LEVELS, PyramidSpec, resize_to_images
from finetune.models.heads.validation import check_choice, check_counts, check_fraction


class AuxiliaryHead(nn.Module):
    """An FCN on one level of the pyramid, used for an auxiliary training loss only.

    Args:
        pyramid: the pyramid that it reads.
        classes: number of classes.
        level: level of the map, 2 to 5; 4 is the second-deepest.
        channels: channels of each convolution.
        convolutions: number of convolutions.
        dropout: fraction of channels dropped before the classifier.

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
        check_choice("level", level, REQUIRED_LEVELS, group="auxiliary")
        check_counts("auxiliary", channels=channels, convolutions=convolutions)
        check_fraction("auxiliary", dropout=dropout)
        self.levels = (level,)
        self.decoder = Convolutions(level, pyramid.channels[level], channels, convolutions, 3, False, dropout)
        self.head = classifier(channels, classes, stride=1)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return logits (B, classes, H, W) at the size of the images."""
        return resize_to_images(self.head(self.decoder(features)), features[0])
