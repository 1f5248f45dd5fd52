"""The guided filter against loops over windows, and on a border that the image has elsewhere."""

import numpy as np
import torch

from finetune.inference.post.guided_filter import GuidedFilter


def mean(values: np.ndarray, row: int, column: int, radius: int) -> float:
    part = values[max(0, row - radius) : row + radius + 1, max(0, column - radius) : column + radius + 1]
    return float(part.mean())


def by_hand(p: np.ndarray, guide: np.ndarray, radius: int, eps: float) -> np.ndarray:
    slope, offset, found = np.zeros_like(p), np.zeros_like(p), np.zeros_like(p)
    for place in np.ndindex(p.shape):
        center, target = mean(guide, *place, radius), mean(p, *place, radius)
        variance = mean((guide) ** 2, *place, radius) - center**2
        slope[place] = (mean(guide * p, *place, radius) - center * target) / (variance + eps)
        offset[place] = target - slope[place] * center
    for place in np.ndindex(p.shape):
        found[place] = mean(slope, *place, radius) * guide[place] + mean(offset, *place, radius)
    return found.clip(0, 1)


def test_it_is_that_of_the_paper() -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (2, 3, 9, 11), dtype=np.uint8)
    p = random.dirichlet(np.ones(3), (2, 9, 11)).transpose(0, 3, 1, 2)
    found = GuidedFilter(2, 0.01).refine(torch.from_numpy(p), torch.from_numpy(images)).numpy()
    for image, channel in np.ndindex(2, 3):
        expected = by_hand(p[image, channel], images[image].mean(0) / 255, 2, 0.01)
        assert np.abs(found[image, channel] - expected).max() < 1e-9


def test_probabilities_of_a_softmax_add_up_to_one() -> None:
    images = torch.randint(0, 256, (1, 1, 20, 20), dtype=torch.uint8)
    p = torch.randn(1, 4, 20, 20).softmax(1)
    assert torch.allclose(GuidedFilter(3, 1.0).refine(p, images).sum(1), torch.ones(1, 20, 20), atol=1e-5)


def test_a_border_moves_to_that_of_the_image() -> None:
    image = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    image[..., 16:] = 255
    p = torch.zeros(1, 1, 32, 32)
    p[..., 17:] = 1  # a pixel beside it
    found = GuidedFilter(4, 1e-4).refine(p, image)
    assert found[0, 0, :, 16].min() > 0.5
    assert found[0, 0, :, 15].max() < 0.5
