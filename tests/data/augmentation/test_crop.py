import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from finetune.data.augmentation.crop import CropTransform


def blobs(height: int = 48, width: int = 64) -> Tensor:
    """Return a smooth image, so that small differences of position stay small differences of value."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([127 + 120 * torch.sin(x / 6), 127 + 120 * torch.cos(y / 5), 2.0 * (x + y)]).byte()


def halves(height: int = 48, width: int = 64) -> tuple[Tensor, Tensor]:
    """Return an image of dark and bright blocks, and a mask that says which is which."""
    mask = torch.zeros(height, width, dtype=torch.uint8)
    mask[8:30, 10:40] = 1
    mask[34:44, 30:60] = 1
    return (40 + 160 * mask).expand(3, -1, -1).contiguous(), mask


@pytest.mark.parametrize(("angle", "scale"), [(10, 1.0), (-35, 1.0), (17, 1.5), (90, 1.25)])
def test_a_turned_view_is_torchvisions_affine(angle, scale):
    image, mask = blobs().float(), halves()[1]
    view = CropTransform((48, 64), (48, 64), scale=scale, angle=angle)
    arguments = {"angle": -angle, "translate": [0, 0], "scale": scale, "shear": [0.0, 0.0]}
    ours = view.image(image.byte()).float()
    theirs = F.affine(image, interpolation=InterpolationMode.BILINEAR, **arguments)
    covered = F.affine(torch.ones(1, 48, 64), **arguments)[0] == 1
    inside = avg_pool2d(covered.float()[None], 3, 1, 1)[0] > 0.99  # at the border the two fills mix in
    assert inside.float().mean() > 0.3
    assert (ours - theirs).abs()[:, inside].max() < 1
    same = view.mask(mask) == F.affine(mask[None], fill=255, **arguments)[0]
    assert same.float().mean() > 0.985


@pytest.mark.parametrize("position", [(0.0, 0.0), (1.0, 0.0), (0.5, 1.0)])
def test_an_unscaled_view_copies_pixels(position):
    image, mask = blobs(), halves()[1]
    view = CropTransform((48, 64), (20, 24), position=position)
    top, left = round(position[0] * 28), round(position[1] * 40)
    assert torch.equal(view.image(image), image[:, top : top + 20, left : left + 24])
    assert torch.equal(view.mask(mask), mask[top : top + 20, left : left + 24])


@pytest.mark.parametrize("scale", [0.4, 0.75, 1.5, 2.0])
def test_a_scaled_view_is_a_crop_of_the_resized_image(scale):
    image, mask = halves()
    size = [round(48 * scale), round(64 * scale)]
    crop = (min(16, size[0]), min(20, size[1]))
    view = CropTransform((48, 64), crop, scale=scale, position=(0.3, 0.8))
    top, left = round(0.3 * (size[0] - crop[0])), round(0.8 * (size[1] - crop[1]))
    cut = slice(top, top + crop[0]), slice(left, left + crop[1])
    theirs = F.resize(blobs(), size, antialias=True)[:, cut[0], cut[1]]
    assert (view.image(blobs()).int() - theirs.int()).abs().float().mean() < 8  # at most a source pixel apart
    nearest = F.resize(mask[None], size, interpolation=InterpolationMode.NEAREST_EXACT)[0][cut]
    assert (view.mask(mask) == nearest).float().mean() > 0.9
    whole = CropTransform((48, 64), (size[0], size[1]), scale=scale)
    assert (whole.image(image).int() - F.resize(image, size, antialias=True).int()).abs().max() <= 1
    everything = F.resize(mask[None], size, interpolation=InterpolationMode.NEAREST_EXACT)[0]
    assert torch.equal(whole.mask(mask), everything)


@pytest.mark.parametrize("angle", [0.0, 25.0])
def test_what_is_not_covered_is_ignored_and_gets_the_mean_color(angle):
    image = torch.stack([torch.full((10, 10), value, dtype=torch.uint8) for value in (10, 20, 200)])
    view = CropTransform((10, 10), (30, 40), angle=angle, position=(0.5, 0.5))
    mask = view.mask(torch.ones(10, 10, dtype=torch.uint8), ignore_index=255)
    assert set(mask.unique().tolist()) == {1, 255}
    assert (mask == 1).sum().item() == pytest.approx(100, abs=6)
    assert (mask[:8] == 255).all()
    assert torch.allclose(view.image(image).float(), image[:, :1, :1].float().expand(-1, 30, 40), atol=0.01)


@pytest.mark.parametrize("scale", [0.5, 0.8, 1.0, 1.3, 2.0])
@pytest.mark.parametrize("angle", [0.0, 12.0, -80.0])
@pytest.mark.parametrize("position", [(0.0, 0.0), (0.6, 0.2), (1.0, 1.0)])
def test_image_and_mask_stay_together(scale, angle, position):
    image, mask = halves()
    view = CropTransform((48, 64), (40, 40), scale, angle, position)
    seen, label = view.image(image)[0].float(), view.mask(mask)
    known = label != 255
    assert known.float().mean() > 0.3
    # bilinear edges are half way; elsewhere brightness must say the label
    clear = known & ((seen - 120).abs() > 50)
    assert clear[known].float().mean() > 0.85
    assert torch.equal((seen > 120)[clear], label[clear] == 1)


def test_the_box_holds_all_the_crop_sees():
    # the same view of a image embedded in a large frame of another value must not change where it was covered
    image, _ = halves(200, 300)
    view = CropTransform((200, 300), (32, 32), scale=1.7, angle=30, position=(0.4, 0.6))
    (top, bottom), (left, right) = view._box
    assert (bottom - top) * (right - left) < 0.05 * 200 * 300
    poisoned = torch.full_like(image, 255)
    poisoned[:, top:bottom, left:right] = image[:, top:bottom, left:right]
    assert torch.equal(view.image(image), view.image(poisoned))
    assert (view.mask(image[0]) != 255).all()


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (3, 200), (7, 5)])
def test_any_size_and_number_of_channels_works(channels, size):
    for angle in (0.0, 45.0):
        for scale in (0.01, 0.5, 2.0):
            view = CropTransform(size, (16, 12), scale, angle, (0.9, 0.1))
            assert view.image(torch.zeros(channels, *size, dtype=torch.uint8)).shape == (channels, 16, 12)
            assert view.mask(torch.zeros(size, dtype=torch.uint8)).shape == (16, 12)


def test_shrinking_averages_instead_of_skipping():
    checks = torch.from_numpy(np.indices((64, 64)).sum(0) % 2 * 200).byte()[None]
    for angle in (0.0, 5.0):
        small = CropTransform((64, 64), (16, 16), scale=0.25, angle=angle).image(checks).float()
        assert (small[:, 3:-3, 3:-3] - 100).abs().max() < 15


@pytest.mark.parametrize("angle", [0.0, 25.0])
@pytest.mark.parametrize(("scale", "crop"), [(1.0, (20, 24)), (0.4, (40, 40)), (1.7, (32, 32))])
def test_each_channel_of_a_mask_is_resampled_like_a_mask_of_its_own(angle, scale, crop):
    masks = torch.randint(0, 2, (5, 48, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    view = CropTransform((48, 64), crop, scale, angle, (0.3, 0.6))
    expected = torch.stack([view.mask(mask, ignore_index=7) for mask in masks])
    assert torch.equal(view.mask(masks, ignore_index=7), expected)
    assert view.mask(masks).dtype == torch.uint8
