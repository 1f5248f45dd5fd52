"""Images and targets at a fraction of their size, against torch and by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from finetune.data.dataset import read_pair
from finetune.data.files import ImageFile, MaskFile
from finetune.data.records import DataError, Record
from finetune.data.reduction import reduce_image, reduce_target, reduced_size
from tests.samples import save

SIZES = [(64, 48), (61, 83), (9, 15), (7, 3), (1, 1)]


def smooth(size: tuple[int, int]) -> np.ndarray:
    """Return an image (H, W, 3) of gradients, which survive a compression."""
    y, x = np.mgrid[: size[0], : size[1]]
    return np.stack([2 * y % 200, (x + y) % 250, np.full(size, 90)], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("size", SIZES)
def test_a_block_of_an_image_becomes_its_mean(size: tuple[int, int], factor: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    reduced = reduce_image(torch.from_numpy(pixels).permute(2, 0, 1), factor)
    expected = F.avg_pool2d(
        torch.from_numpy(pixels).permute(2, 0, 1).double(), factor, ceil_mode=True, count_include_pad=False
    )
    assert reduced.shape[1:] == reduced_size(size, factor)
    assert (reduced - expected).abs().max() < 0.7  # of smaller blocks at the end, Pillow does not take the nearest


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("size", SIZES)
def test_a_block_of_a_target_becomes_the_label_in_its_middle(size: tuple[int, int], factor: int) -> None:
    target = torch.randint(0, 200, (2, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    reduced = reduce_target(target, factor)
    assert reduced.shape == (2, *reduced_size(size, factor))
    for y in range(reduced.shape[1]):
        for x in range(reduced.shape[2]):
            middle = min(size[0] - 1, factor * y + factor // 2), min(size[1] - 1, factor * x + factor // 2)
            assert (reduced[:, y, x] == target[:, middle[0], middle[1]]).all()


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_file_is_read_as_the_means_of_its_blocks(
    suffix: str, size: tuple[int, int], factor: int, orientation: int, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(smooth(size)).save(tmp_path / f"a{suffix}", exif=exif, quality=95, subsampling=0)
    file = ImageFile(tmp_path / f"a{suffix}")
    found, expected = file.read_reduced(factor), reduce_image(file.read(), factor)
    assert found.shape == expected.shape
    if suffix == ".png":
        assert torch.equal(found, expected)
    elif orientation == 1:  # the blocks of a turned file begin at its other end
        assert (found.float() - expected.float()).abs().mean() < 6


def test_a_jpeg_is_decoded_at_the_reduced_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(smooth((640, 480))).save(tmp_path / "a.jpg")
    monkeypatch.setattr("finetune.data.files.reduce_image", lambda image, factor: pytest.fail("decoded whole"))
    assert ImageFile(tmp_path / "a.jpg").read_reduced(8).shape == (3, 80, 60)


@pytest.mark.parametrize("mask_size", [(61, 83), (122, 166), (31, 42)])
def test_a_pair_is_reduced_together(mask_size: tuple[int, int], tmp_path: Path) -> None:
    save(tmp_path / "a.png", smooth((61, 83)))
    rows = np.arange(mask_size[0]) * 10 // mask_size[0]
    mask = np.repeat(rows[:, None], mask_size[1], 1).astype(np.uint8)
    save(tmp_path / "mask.png", mask)
    image, target = read_pair(Record("a", ImageFile(tmp_path / "a.png"), MaskFile(tmp_path / "mask.png")), 3, 4)
    assert image.shape == (3, 16, 21)
    assert target.shape == (16, 21)
    assert (target[:, 0] - torch.arange(16) * 10 / 16).abs().max() <= 1


def test_a_pair_of_other_shapes_is_refused_at_a_reduced_size_too(tmp_path: Path) -> None:
    save(tmp_path / "a.png", smooth((64, 64)))
    save(tmp_path / "mask.png", np.zeros((64, 90), dtype=np.uint8))
    with pytest.raises(DataError, match="expected the same size"):
        read_pair(Record("a", ImageFile(tmp_path / "a.png"), MaskFile(tmp_path / "mask.png")), 3, 2)
