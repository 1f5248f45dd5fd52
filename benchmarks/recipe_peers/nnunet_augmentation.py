"""The training augmentation of nnU-Net v2, for images in two dimensions.

The intensity operations work on images with mean 0 and deviation 1 in each channel, as nnU-Net's do.
"""

import random

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2.functional import gaussian_blur

from recipe_peers.datasets import Pair
from recipe_peers.warp import rotation, warp, zoom


def augment(image: Tensor, mask: Tensor) -> Pair:
    """Return an augmented patch, image float (3, H, W) in 0..255."""
    size = (mask.shape[0], mask.shape[1])
    turn = 180.0 if max(size) < 1.5 * min(size) else 15.0  # no patch of another shape is turned upside down
    turned, scaled = random.random() < 0.2, random.random() < 0.2
    if turned or scaled:
        matrix = rotation(random.uniform(-turn, turn), size) if turned else torch.eye(3)
        matrix = matrix @ (zoom(1 / random.uniform(0.7, 1.4)) if scaled else torch.eye(3))
        image, mask = warp(image, mask, matrix)
    image = _intensities(image)
    for axis in (-1, -2):
        if random.random() < 0.5:
            image, mask = image.flip(axis), mask.flip(axis)
    return image, mask


def _intensities(image: Tensor) -> Tensor:
    mean, std = image.mean((1, 2), keepdim=True), image.std((1, 2), keepdim=True) + 1e-6
    z = (image - mean) / std
    if random.random() < 0.1:
        z = z + torch.randn_like(z) * random.uniform(0, 0.1) ** 0.5
    if random.random() < 0.2:
        z = torch.stack([_blurred(channel) if random.random() < 0.5 else channel for channel in z])
    if random.random() < 0.15:
        z = z * _factors(0.75, 1.25)
    if random.random() < 0.15:
        low, high, middle = z.amin((1, 2), keepdim=True), z.amax((1, 2), keepdim=True), z.mean((1, 2), keepdim=True)
        z = ((z - middle) * _factors(0.75, 1.25) + middle).clamp(low, high)
    if random.random() < 0.25:
        z = torch.stack([_coarse(channel) if random.random() < 0.5 else channel for channel in z])
    if random.random() < 0.1:
        z = -_with_gamma(-z)
    if random.random() < 0.3:
        z = _with_gamma(z)
    return (z * std + mean).clamp(0, 255)


def _factors(low: float, high: float) -> Tensor:
    """Return a factor for each channel (3, 1, 1): below 1 as often as above."""
    drawn = [random.uniform(low, 1) if random.random() < 0.5 else random.uniform(1, high) for _ in range(3)]
    return torch.tensor(drawn).view(3, 1, 1)


def _blurred(channel: Tensor) -> Tensor:
    blurred: Tensor = gaussian_blur(channel[None], [7, 7], [random.uniform(0.5, 1.0)])
    return blurred[0]


def _coarse(channel: Tensor) -> Tensor:
    """Return the channel as if it had been taken at a lower resolution."""
    scale = random.uniform(0.5, 1)
    size = [max(1, round(side * scale)) for side in channel.shape]
    small = F.interpolate(channel[None, None], size=size, mode="nearest-exact")
    return F.interpolate(small, size=channel.shape, mode="bilinear", align_corners=False)[0, 0]


def _with_gamma(z: Tensor) -> Tensor:
    """Return the image with another gamma, and the mean and deviation that it had."""
    low, mean, std = z.amin((1, 2), keepdim=True), z.mean((1, 2), keepdim=True), z.std((1, 2), keepdim=True)
    span = (z.amax((1, 2), keepdim=True) - low).clamp_min(1e-6)
    bent = ((z - low) / span) ** _factors(0.7, 1.5)
    return (bent - bent.mean((1, 2), keepdim=True)) / bent.std((1, 2), keepdim=True).clamp_min(1e-6) * std + mean
