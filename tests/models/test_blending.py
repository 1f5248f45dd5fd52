"""Blended windows against whole images, and against a loop over pixels."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from finetune.models.blending import SlidingWindow, blend, blend_windows, gaussian_weights, spans

SIZES = [(500, 256, 0.25), (1024, 256, 0.5), (2049, 1024, 0.25), (333, 128, 0.75), (257, 256, 0.25), (700, 150, 0.0)]


@pytest.mark.parametrize(("length", "side", "overlap"), SIZES)
def test_windows_cover_a_length_on_the_grid_of_strides_with_the_overlap(length: int, side: int, overlap: float) -> None:
    parts = spans(length, side, overlap)
    assert len(parts) > 1
    assert (parts[0].start, parts[-1].stop) == (0, length)
    assert all(part.start % 32 == 0 for part in parts)
    assert all(part.stop - part.start == side for part in parts[:-1])
    assert side - 32 < parts[-1].stop - parts[-1].start <= side
    shared = [before.stop - after.start for before, after in pairwise(parts)]
    assert min(shared) >= overlap * side
    assert len(parts) - 1 == -(-(length - side) // (int(side * (1 - overlap)) // 32 * 32))  # no more than needed


@pytest.mark.parametrize("length", [1, 63, 64])
def test_an_image_that_is_no_larger_than_a_window_is_one_window(length: int) -> None:
    assert spans(length, 64, 0.25) == [slice(0, length)]


@pytest.mark.parametrize(("length", "side", "overlap"), SIZES)
def test_weights_are_gaussians_that_sum_to_one_at_each_pixel(length: int, side: int, overlap: float) -> None:
    parts = spans(length, side, overlap)
    curves, total = [], np.zeros(length)
    for part in parts:
        x = np.arange(part.start, part.stop)
        curves.append(np.exp(-((x - x.mean()) ** 2) / (2 * (len(x) / 8) ** 2)))
        total[part] += curves[-1]
    weights = gaussian_weights(parts)
    for curve, part, weight in zip(curves, parts, weights, strict=True):
        assert np.allclose(weight, curve / total[part], rtol=1e-5)
    summed = torch.zeros(length)
    for part, weight in zip(parts, weights, strict=True):
        summed[part] += weight
    assert np.allclose(summed, 1, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "side", "overlap"),
    [
        ((250, 317), (128, 160), 0.25),
        ((433, 140), (128, 128), 0.75),
        ((161, 40), (160, 128), 0.5),
        ((400, 300), (150, 130), 0.0),
    ],
)
def test_blocks_are_what_a_loop_that_keeps_everything_computes(
    size: tuple[int, int], side: tuple[int, int], overlap: float
) -> None:
    rows, columns = SlidingWindow(side, overlap).spans(size)
    random = np.random.default_rng(0)
    windows = [random.normal(size=(3, r.stop - r.start, c.stop - c.start)) for r in rows for c in columns]
    totals, weights = np.zeros((3, *size)), np.zeros(size)
    for (row, column), window in zip(((r, c) for r in rows for c in columns), windows, strict=True):
        y, x = (np.arange(n) - (n - 1) / 2 for n in window.shape[1:])
        sigma = window.shape[1] / 8, window.shape[2] / 8
        weight = np.exp(-(y[:, None] ** 2) / (2 * sigma[0] ** 2) - x**2 / (2 * sigma[1] ** 2))
        totals[:, row, column] += weight * window
        weights[row, column] += weight
    found, covered = np.full((3, *size), np.nan), np.zeros(size, dtype=int)
    for row, column, block in blend(map(torch.from_numpy, windows), rows, columns):
        found[:, row, column] = block
        covered[row, column] += 1
    assert (covered == 1).all()
    assert np.allclose(found, totals / weights, atol=1e-5)


def test_blocks_are_finished_before_later_windows_are_computed() -> None:
    rows, columns = SlidingWindow(128, 0.25).spans((400, 400))
    taken = 0

    def windows():
        nonlocal taken
        for row in rows:
            for column in columns:
                taken += 1
                yield torch.ones(1, row.stop - row.start, column.stop - column.start)

    for number, (_, _, block) in enumerate(blend(windows(), rows, columns), start=1):
        assert taken == number
        assert max(block.shape[1:]) <= 128
    assert taken == len(rows) * len(columns) == 16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_constant_and_ramp_have_no_seams(dtype: torch.dtype) -> None:
    size = (300, 290)
    y, x = (torch.arange(n, dtype=torch.float32) for n in size)
    ramp = (y[:, None] - 2 * x).expand(2, *size)
    rows, columns = SlidingWindow(128, 0.25).spans(size)
    for image in (torch.full((2, *size), 7.25), ramp):
        maps = (image[:, row, column].to(dtype) for row in rows for column in columns)
        blended = torch.empty(2, *size)
        for row, column, block in blend(maps, rows, columns):
            blended[:, row, column] = block
        precision = 1e-6 if dtype == torch.float32 else 2e-2
        assert torch.allclose(blended, image.to(dtype).float(), rtol=precision, atol=precision * image.abs().max())


class Strided(nn.Module):
    """Convolutions of stride 8, resampled to the image: outputs depend on no pixel that is `REACH` away."""

    def __init__(self) -> None:
        super().__init__()
        sides = [(3, 4), (4, 4), (4, 5)]
        self.layers = nn.Sequential(*(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in sides))

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = self.layers(images).tanh()
        return [maps.repeat_interleave(8, -1).repeat_interleave(8, -2)[..., : images.shape[-2], : images.shape[-1]]]


REACH = 16


def far_from_borders(parts: list[slice], length: int) -> np.ndarray:
    """Return which pixels are far from those borders of windows that are no borders of the image."""
    far = np.ones(length, dtype=bool)
    for part in parts:
        far[part.start : part.start + REACH] &= part.start == 0
        far[part.stop - REACH : part.stop] &= part.stop == length
    return far


@pytest.mark.parametrize("size", [(571, 700), (300, 1000), (200, 240)])
def test_windows_equal_the_whole_image_where_no_border_of_theirs_is_seen(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model, images, window = Strided(), torch.rand(2, 3, *size), SlidingWindow(256, 0.25)
    with torch.no_grad():
        (whole,) = model(images)
        (blended,) = blend_windows(model, images, window)
    far = torch.from_numpy(
        np.logical_and.outer(*(far_from_borders(p, n) for p, n in zip(window.spans(size), size, strict=True)))
    )
    assert 0.6 < far.float().mean() <= 1
    assert torch.allclose(blended[..., far], whole[..., far], atol=1e-6)
    # elsewhere the window with the border nearby weighs at most exp((16 - 64) * 24 / 256) = 1 % of the other
    assert (blended - whole).abs().max() < 0.02


@pytest.mark.parametrize("size", [64, 127, True, "large", [128], [128, 0], [128, 128, 128], 128.0])
def test_windows_of_other_sizes_are_refused(size: object) -> None:
    with pytest.raises(ValueError, match=r"expected a side of at least 128 pixels, \[height,width\], auto, or null"):
        SlidingWindow(size)


@pytest.mark.parametrize("overlap", [-0.1, 0.8, 1, "half", True, None])
def test_other_overlaps_are_refused(overlap: object) -> None:
    with pytest.raises(ValueError, match=r"expected a part of a window, from 0 to 0.75"):
        SlidingWindow("auto", overlap)


def test_windows_of_a_model_that_reduces_images_are_as_many_times_larger() -> None:
    assert SlidingWindow("auto", reduce=2).sides == (2048, 2048)
    assert SlidingWindow("auto", reduce=8).sides == (4096, 4096)
    assert not SlidingWindow("auto", reduce=8).divides((3000, 5000))
    assert SlidingWindow("auto", reduce=8).divides((4096, 4097))
    rows, _ = SlidingWindow(1024, 0.25, reduce=8).spans((2500, 800))
    assert [part.start % 256 for part in rows] == [0] * len(rows)
    with pytest.raises(ValueError, match=r"at least 1024 pixels .the model sees 1/8 of them"):
        SlidingWindow(1000, reduce=8)


def test_which_images_are_divided() -> None:
    assert not SlidingWindow(None).divides((100_000, 100_000))
    assert SlidingWindow("auto").divides((2048, 2049))
    assert not SlidingWindow("auto").divides((4096, 1024))
    assert SlidingWindow(256).divides((257, 10))
    assert not SlidingWindow((256, 512)).divides((256, 512))
    assert SlidingWindow([256, 512]).divides((1, 513))
