import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from finetune.data.augmentation.crop import CropTransform
from finetune.data.augmentation.warp import Warp
from finetune.data.synthetic.drawing import draw

IMAGE, MASK = draw((60, 80))
SHIFTS = ((0.1, 0.05), (-0.1, 0.15), (0.08, -0.12), (-0.15, -0.02))  # (y, x) of each corner


def dense(warp: Warp, size: tuple[int, int]) -> np.ndarray:
    y, x = np.broadcast_arrays(*(axis.numpy() for axis in warp.positions(size)))
    return np.stack([y, x])


def test_no_warp_is_the_centers_of_the_pixels() -> None:
    expected = np.indices((5, 7)) + 0.5
    assert np.array_equal(dense(Warp(), (5, 7)), expected)


def test_a_perspective_takes_corners_to_their_places_and_lines_to_lines() -> None:
    # many pixels, so that the centers of the outer ones are nearly the corners
    y, x = dense(Warp(SHIFTS), (2000, 1000))
    corners = [(y[i, j] / 2000, x[i, j] / 1000) for i, j in ((0, 0), (0, -1), (-1, -1), (-1, 0))]
    expected = np.array([(0, 0), (0, 1), (1, 1), (1, 0)]) + SHIFTS
    assert np.abs(np.array(corners) - expected).max() < 2e-3
    for line in ((y[700], x[700]), (y[:, 300], x[:, 300]), (np.diagonal(y[::2]), np.diagonal(x[::2]))):
        points = np.stack(line, axis=1).astype(np.float64)
        assert np.linalg.svd(points - points.mean(0))[1][1] < 0.05


def test_a_perspective_is_torchvisions() -> None:
    corners = [[0, 0], [80, 0], [80, 60], [0, 60]]  # x first
    sources = [[x + 80 * dx, y + 60 * dy] for (x, y), (dy, dx) in zip(corners, SHIFTS, strict=True)]
    theirs = F.perspective(IMAGE.float(), sources, corners, fill=0.0)
    y, x = dense(Warp(SHIFTS), (60, 80))
    ours = CropTransform((60, 80), (60, 80), warp=Warp(SHIFTS)).image(IMAGE)
    inside = (y > 1) & (y < 59) & (x > 1) & (x < 79)
    assert inside.mean() > 0.5
    assert (ours - theirs).abs().numpy()[:, inside].max() < 2


def test_a_grid_distortion_stretches_rows_and_columns() -> None:
    y, x = dense(Warp(rows=(1, 3), columns=(2, 1, 1)), (100, 60))
    expected = [position / 2 if position < 50 else 25 + 1.5 * (position - 50) for position in np.arange(100) + 0.5]
    assert np.allclose(y[:, 7], expected, atol=1e-4)
    assert np.allclose(x[3], np.interp(np.arange(60) + 0.5, [0, 20, 40, 60], [0, 30, 45, 60]), atol=1e-4)


def test_an_elastic_deformation_stays_within_its_size_and_does_not_fold() -> None:
    largest = 0.0
    for seed in range(20):
        moved = dense(Warp(elastic=8, spacing=32, seed=seed), (130, 170)) - (np.indices((130, 170)) + 0.5)
        assert np.abs(moved).max() <= 8
        largest = max(largest, float(np.abs(moved).max()))
        dy, dx = (np.gradient(part, axis=(0, 1)) for part in moved)
        assert ((1 + dy[0]) * (1 + dx[1]) - dy[1] * dx[0]).min() > 0
    assert largest > 4


def test_an_elastic_deformation_is_a_spline_of_its_points() -> None:
    points = torch.rand(2, 6, 7, generator=torch.Generator().manual_seed(5)).mul(2 * 3.0).sub(3.0).numpy()
    moved = dense(Warp(elastic=3.0, spacing=16, seed=5), (40, 50)) - (np.indices((40, 50)) + 0.5)

    def bump(t: float) -> float:  # the cubic B-spline, as a piecewise polynomial of the distance
        t = abs(t)
        return (4 - 6 * t**2 + 3 * t**3) / 6 if t < 1 else max(0.0, 2 - t) ** 3 / 6

    for y, x in ((0, 0), (13, 20), (39, 49)):
        down = [bump((y + 0.5) / 16 - (row - 1)) for row in range(6)]
        across = [bump((x + 0.5) / 16 - (column - 1)) for column in range(7)]
        assert np.allclose(moved[:, y, x], np.einsum("r,c,krc->k", down, across, points), atol=1e-4)


WARPS = [
    Warp(SHIFTS),
    Warp(elastic=6, spacing=24, seed=1),
    Warp(rows=(1, 2, 1.5), columns=(2, 1)),
    Warp(SHIFTS, (1, 1.4), (1.3, 1), 5, 32, 3),
]


@pytest.mark.parametrize("warp", WARPS)
@pytest.mark.parametrize(
    ("scale", "angle", "crop"), [(1.0, 0.0, (60, 80)), (1.6, 20.0, (48, 48)), (0.5, 0.0, (40, 50))]
)
def test_image_and_mask_stay_together(warp: Warp, scale: float, angle: float, crop: tuple[int, int]) -> None:
    mask = torch.zeros(60, 80, dtype=torch.uint8)
    mask[10:40, 20:50] = 1
    mask[45:55, 5:70] = 1
    image = (40 + 160 * mask).expand(6, -1, -1).contiguous()
    view = CropTransform((60, 80), crop, scale, angle, (0.4, 0.6), warp)
    seen, label = view.image(image)[5].float(), view.mask(mask, ignore_index=9)
    assert set(label.unique().tolist()) <= {0, 1, 9}
    clear = (label != 9) & ((seen - 120).abs() > 50)
    assert clear.float().mean() > 0.25
    assert torch.equal((seen > 120)[clear], label[clear] == 1)


@pytest.mark.parametrize("warp", WARPS)
def test_the_box_holds_all_that_a_warped_crop_sees(warp: Warp) -> None:
    image, _ = draw((200, 300))
    view = CropTransform((200, 300), (32, 32), 1.7, 30, (0.4, 0.6), warp)
    (top, bottom), (left, right) = view._box
    assert (bottom - top) * (right - left) < 0.1 * 200 * 300
    poisoned = torch.full_like(image, 255)
    poisoned[:, top:bottom, left:right] = image[:, top:bottom, left:right]
    assert torch.equal(view.image(image), view.image(poisoned))


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (7, 5)])
def test_any_size_can_be_warped(size: tuple[int, int]) -> None:
    for warp in WARPS:
        for scale in (0.01, 0.5, 2.0):
            view = CropTransform(size, (16, 12), scale, 0.0, (0.9, 0.1), warp)
            assert view.image(torch.zeros(2, *size, dtype=torch.uint8)).shape == (2, 16, 12)
            assert view.mask(torch.zeros(3, *size, dtype=torch.uint8)).shape == (3, 16, 12)


def test_a_warp_that_misses_a_small_image_shows_nothing_of_it() -> None:
    inwards = Warp(((0.2, 0.2), (0.2, -0.2), (-0.2, -0.2), (-0.2, 0.2)))
    view = CropTransform((4, 4), (200, 200), 1.0, 0.0, (0.0, 0.0), inwards)
    assert (view.mask(torch.ones(4, 4, dtype=torch.uint8)) == 255).all()
    assert (view.image(torch.full((2, 4, 4), 7, dtype=torch.uint8)) == 7).all()
