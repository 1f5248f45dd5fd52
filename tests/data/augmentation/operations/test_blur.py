import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from finetune.data.augmentation.operations import gaussian_blur
from finetune.data.synthetic.drawing import draw

IMAGE = draw((70, 90))[0]


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.0])
def test_blur_is_torchvisions(sigma):
    kernel = 2 * max(1, round(3 * sigma)) + 1
    theirs = F.gaussian_blur(IMAGE.float(), [kernel, kernel], [sigma, sigma])
    edge = kernel // 2  # torchvision reflects at the border, where we repeat
    inside = (slice(None), slice(edge, -edge), slice(edge, -edge))
    assert (gaussian_blur(IMAGE, sigma)[inside] - theirs[inside]).abs().max() < 1.1
    flat = torch.full((1, 3, 3), 7, dtype=torch.uint8)
    assert torch.equal(gaussian_blur(flat, sigma), flat)


@pytest.mark.parametrize(("size", "sigma"), [((1, 1), 0.1), ((5, 33), 0.7), ((64, 31), 2.0), ((40, 9), 12.0)])
def test_blur_is_a_weighted_sum_with_the_border_repeated_at_any_size(size, sigma):
    image = torch.randint(256, (6, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    radius = max(1, round(3 * sigma))
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    expected = np.pad(image.double().numpy(), ((0, 0), (radius, radius), (radius, radius)), mode="edge")
    for axis in (1, 2):
        expected = np.apply_along_axis(np.convolve, axis, expected, taps / taps.sum(), mode="valid")
    assert np.abs(gaussian_blur(image, sigma).numpy() - expected).max() < 2  # OpenCV has fractions of 8 bits
