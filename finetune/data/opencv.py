"""Images for the functions of OpenCV, in whose arrays the channels of a pixel lie side by side.

An image stays a tensor (C, H, W). After a function of OpenCV it is a view of such an array, which the next one takes
without a copy; `contiguous` ends that.

OpenCV gets no threads of its own: the loading processes use the cores already, and a pool of threads does not survive
the fork that starts them.
"""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

cv2.setNumThreads(0)

MOST = 4  # channels that all functions of OpenCV take
Array = npt.NDArray[Any]


def apply(function: Callable[[Array], Array], image: Tensor, channels: int = MOST) -> Tensor:
    """Apply a function to a few channels at a time.

    Args:
        function: of an array (H, W, c) uint8 that it leaves as it is, for at most that many channels; returns an array
            uint8 of the same channels.
        image: uint8 (C, H, W).
        channels: at a time.

    Returns:
        uint8 (C, h, w).
    """
    groups = [_planar(function(interleaved(group))) for group in torch.split(image, channels)]
    return groups[0] if len(groups) == 1 else torch.cat(groups)


def interleaved(image: Tensor) -> Array:
    """Return an image (C, H, W) uint8 of at most `MOST` channels as an array (H, W, C), without a copy if possible."""
    pixels = image.permute(1, 2, 0)
    if pixels.is_contiguous() or len(image) == 1:
        return pixels.numpy()
    merged: Array = cv2.merge(list(image.numpy()))  # a twentieth of the time of torch's copy
    return merged


def contiguous(image: Tensor) -> Tensor:
    """Return an image (C, H, W) uint8 whose memory holds one channel after another."""
    if image.is_contiguous() or not 1 < len(image) <= MOST:
        return image.contiguous()
    planes = torch.empty(image.shape, dtype=torch.uint8)
    write_channels(interleaved(image), planes)
    return planes


def write_channels(pixels: Array, image: Tensor) -> None:
    """Copy an array (H, W, C) uint8 into an image (C, H, W), whose rows lie in one piece each."""
    if 1 < len(image) <= MOST:
        cv2.split(pixels, list(image.numpy()))  # a fifth of the time of torch's copy
    else:
        image.numpy()[:] = pixels.transpose(2, 0, 1)


def channel_means(image: Tensor) -> list[float]:
    """Return the mean value of each channel of an image (C, H, W) uint8."""
    return [mean for group in torch.split(image, MOST) for mean in cv2.mean(interleaved(group))[: len(group)]]


def _planar(pixels: Array) -> Tensor:
    """Return an array (H, W), which is what OpenCV makes of one channel, or (H, W, C) as a view (C, H, W)."""
    tensor = torch.from_numpy(np.atleast_3d(pixels))
    return tensor.permute(2, 0, 1)
