"""Smooth borders by a vote of the pixels around each pixel."""

from dataclasses import dataclass

import numpy as np
import torch

from finetune.inference.output import Prediction
from finetune.inference.post.box import box_sum, check_radius


@dataclass(frozen=True)
class Smooth:
    """Each pixel takes the class of most pixels around it; for masks, this is their median.

    A tie with the pixel's own class changes nothing; of other classes that tie, the first wins.

    Attributes:
        radius: of the window, pixels.
    """

    radius: int = 2

    def __post_init__(self) -> None:
        check_radius(self.radius)

    def clean(self, prediction: Prediction) -> Prediction:
        """Return class indices (H, W), or masks (K, H, W), with smooth borders."""
        labels = torch.from_numpy(prediction)
        if labels.ndim == 3:
            masks = labels.float()[:, None]
            votes, voters = box_sum(masks, self.radius), box_sum(torch.ones_like(masks[:1]), self.radius)
            return (2 * votes + masks > voters).byte().numpy()[:, 0]
        most, winner = torch.zeros(labels.shape), labels
        for label in np.unique(prediction).tolist():  # one at a time: all at once would need a channel for each class
            mask = (labels == label).float()
            votes = box_sum(mask[None, None], self.radius)[0, 0] + mask / 2
            winner, most = winner.where(votes <= most, label), most.maximum(votes)
        return winner.numpy()
