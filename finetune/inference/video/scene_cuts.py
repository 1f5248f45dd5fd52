"""Scene cuts: frames that look unlike the frame before them."""

from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

SIDE = 32  # pixels; so few that noise and small movements average out


def thumbnail(image: Tensor) -> Tensor:
    """Return the gray levels (SIDE, SIDE), float32, 0 to 255, of an image (C, H, W), uint8."""
    return adaptive_avg_pool2d(image.float().mean(dim=0)[None], SIDE)[0]


def is_scene_cut(before: Tensor, after: Tensor, threshold: float) -> bool:
    """Return whether the mean absolute difference of two thumbnails exceeds a threshold.

    >>> from torch import tensor
    >>> [is_scene_cut(tensor([10.0, 200.0]), tensor([30.0, 160.0]), threshold) for threshold in (29, 30)]
    [True, False]
    """
    return bool((after - before).abs().mean() > threshold)
