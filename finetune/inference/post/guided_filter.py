"""Probabilities that follow the edges of the image."""

from dataclasses import dataclass

from torch import Tensor

from finetune.inference.post.box import box_mean, check_radius


@dataclass(frozen=True)
class GuidedFilter:
    """In each window, probabilities become a linear function of the gray image.

    Attributes:
        radius: of the windows, pixels.
        eps: variance of the image, whose values are 0..1, below which it guides nothing.

    Source: He, Sun and Tang 2013, https://doi.org/10.1109/TPAMI.2012.213
    """

    radius: int = 4
    eps: float = 1e-3

    def __post_init__(self) -> None:
        check_radius(self.radius)
        if self.eps <= 0:
            raise ValueError(f"eps={self.eps}: expected a number above 0.")

    def refine(self, probabilities: Tensor, images: Tensor) -> Tensor:
        """Return the filtered probabilities (B, K, H, W), 0..1; those of a softmax still add up to 1."""
        guide = images.to(probabilities.dtype).mean(dim=1, keepdim=True) / 255
        mean, target = box_mean(guide, self.radius), box_mean(probabilities, self.radius)
        variance = (box_mean(guide * guide, self.radius) - mean * mean).clamp(min=0)
        slope = (box_mean(guide * probabilities, self.radius) - mean * target) / (variance + self.eps)
        offset = target - slope * mean
        return (box_mean(slope, self.radius) * guide + box_mean(offset, self.radius)).clamp(0, 1)
