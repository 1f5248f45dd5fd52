"""Numbers of single images against NumPy, pixel by pixel."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from finetune.metrics.image_statistics import ImageStatistics, foreground, uncertainty
from finetune.metrics.measurement import ImageBatch


def batch(index: list[int]) -> ImageBatch:
    """Return images of random pixels, which are the same for the same index."""
    generators = [torch.Generator().manual_seed(each) for each in index]
    images = torch.stack([torch.randint(0, 256, (3, 8, 9), generator=g, dtype=torch.uint8) for g in generators])
    probabilities = torch.stack([torch.randn(3, 8, 9, generator=g).softmax(0) for g in generators])
    target = torch.stack([torch.randint(0, 3, (8, 9), generator=g, dtype=torch.uint8) for g in generators])
    target[:, 0] = 255
    return ImageBatch(torch.tensor(index), images, probabilities, probabilities.argmax(1).byte(), target)


def sums(*batches: ImageBatch) -> dict[str, Tensor]:
    statistics = ImageStatistics(5, 255)
    for each in batches:
        statistics.update(each)
    return statistics.sums()


def test_brightness_and_foreground_are_those_of_numpy() -> None:
    found, images = sums(batch([4, 1])), batch([4, 1])
    for row, index in enumerate((4, 1)):
        assert float(found["brightness"][index]) == pytest.approx(images.image[row].numpy().mean(), abs=1e-4)
        labels = images.target[row].numpy()
        assert float(found["foreground"][index]) == pytest.approx((labels[labels != 255] != 0).mean())
    assert found["brightness"][[0, 2, 3]].tolist() == [0, 0, 0]


def test_the_rows_of_several_ranks_add_up_to_those_of_one() -> None:
    first, second, whole = sums(batch([0, 3])), sums(batch([1])), sums(batch([0, 3, 1]))
    for name, values in whole.items():
        assert torch.equal(first[name] + second[name], values)


def test_the_foreground_of_masks_is_where_any_class_is_and_an_ignored_image_has_none() -> None:
    masks = torch.tensor([[[[1, 0, 0, 255]], [[1, 1, 0, 255]]], [[[255, 255, 255, 1]], [[255, 255, 0, 0]]]])
    assert foreground(masks).tolist() == pytest.approx([2 / 3, 1 / 2])
    assert foreground(torch.full((1, 2, 2), -1), -1).isnan().all()


def entropies(p: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(p > 0, -p * np.log(p), 0)


def test_the_uncertainty_is_the_mean_entropy_of_the_most_uncertain_pixels() -> None:
    p = (5 * torch.randn(3, 4, 21, 30, generator=torch.Generator().manual_seed(0))).softmax(1)
    for found, image in zip(uncertainty(p).tolist(), p.double().numpy(), strict=True):
        pixels = sorted(entropies(image).sum(0)[::2, ::2].ravel() / math.log(4), reverse=True)
        assert found == pytest.approx(np.mean(pixels[: math.ceil(0.05 * 11 * 15)]), abs=1e-6)


def test_the_uncertainty_of_several_classes_per_pixel_is_the_mean_of_theirs() -> None:
    p = torch.rand(2, 5, 9, 8, generator=torch.Generator().manual_seed(1))
    for found, image in zip(uncertainty(p, several=True).tolist(), p.double().numpy(), strict=True):
        bits = (entropies(image) + entropies(1 - image)).mean(0)[::2, ::2].ravel() / math.log(2)
        assert found == pytest.approx(np.mean(sorted(bits)[-1:]), abs=1e-6)


def test_certain_pixels_have_no_uncertainty_and_undecided_ones_the_highest() -> None:
    certain = torch.zeros(1, 3, 4, 4)
    certain[:, 1] = 1
    assert uncertainty(certain).tolist() == [0]
    assert uncertainty(torch.full((1, 3, 4, 4), 1 / 3)).tolist() == pytest.approx([1])
    assert uncertainty(torch.full((1, 3, 4, 4), 0.5), several=True).tolist() == pytest.approx([1])
    assert uncertainty(certain, several=True).tolist() == [0]
