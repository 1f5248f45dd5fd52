"""Drawn images of discs and boxes, and a plain loop that trains a model on them."""

from collections.abc import Sequence
from itertools import cycle, islice

import numpy as np
import torch
from torch import Tensor

from finetune.instances import Objects, objects_of
from finetune.models.instance_segmenter import InstanceSegmenter

Drawing = tuple[Tensor, Objects]
COLORS = np.array([[200, 70, 60], [60, 90, 200]])  # of a disc, which is class 0, and of a box, class 1


def drawn_objects(count: int, size: int, seed: int) -> list[Drawing]:
    """Return images with one to four discs and boxes each, that may overlap.

    Args:
        count: number of images.
        size: height and width, pixels.
        seed: of everything random.

    Returns:
        Images (3, H, W), uint8, with their objects; what a later one hides is not in the mask of an earlier one.
    """
    random = np.random.default_rng(seed)
    return [_drawn(random, size) for _ in range(count)]


def _drawn(random: np.random.Generator, size: int) -> Drawing:
    image = random.integers(90, 140, (size, size, 3))
    rows, columns = np.mgrid[:size, :size]
    masks, labels = np.zeros((0, size, size), dtype=bool), []
    for _ in range(random.integers(1, 5)):
        y, x = random.uniform(0.15, 0.85, 2) * size
        height, width = random.uniform(0.07, 0.2, 2) * size
        label = int(random.integers(2))
        if label == 0:
            mask = (rows - y) ** 2 + (columns - x) ** 2 < height**2
        else:
            mask = (abs(rows - y) < height) & (abs(columns - x) < width)
        masks = np.concatenate([masks & ~mask, mask[None]])
        labels.append(label)
        image[mask] = COLORS[label] + random.integers(-30, 30, 3) + random.integers(-15, 15, (mask.sum(), 3))
    seen = masks.any((1, 2))
    objects = objects_of(torch.from_numpy(masks[seen]), torch.tensor(labels)[torch.from_numpy(seen)])
    return torch.from_numpy(image.clip(0, 255).astype(np.uint8)).permute(2, 0, 1).contiguous(), objects


def train(
    model: InstanceSegmenter, drawings: Sequence[Drawing], steps: int, batch: int = 4, lr: float = 1e-3
) -> list[float]:
    """Train a model with AdamW and a cosine schedule, and return the loss of each step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    samples, losses = cycle(drawings), []
    model.train()
    for _ in range(steps):
        images, targets = zip(*islice(samples, batch), strict=True)
        loss = torch.stack(list(model.losses(model.normalize(torch.stack(images)), targets).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses
