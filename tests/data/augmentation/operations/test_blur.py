import pytest
import torch
from torchvision.transforms.v2 import functional as F

from finetune.data.augmentation.operations import gaussian_blur
from finetune.data.synthetic.drawing import draw

IMAGE = draw((70, 90))[0]


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.0])
def test_blur_is_torchvisions(sigma):
    image = IMAGE.float()
    kernel = 2 * max(1, round(3 * sigma)) + 1
    theirs = F.gaussian_blur(image, [kernel, kernel], [sigma, sigma])
    edge = kernel // 2  # torchvision reflects at the border, where we repeat
    inside = (slice(None), slice(edge, -edge), slice(edge, -edge))
    assert torch.allclose(gaussian_blur(image, sigma)[inside], theirs[inside], atol=1e-2)
    assert torch.allclose(gaussian_blur(torch.full((1, 3, 3), 7.0), sigma), torch.full((1, 3, 3), 7.0))
