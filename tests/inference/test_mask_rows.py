"""Masks that are written row by row, against what other readers make of them."""

import io
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from finetune.inference.mask_rows import PngRows, TiffRows, write_masks
from finetune.plots import palette
from finetune.plots.colors import Color


def parts(mask: np.ndarray, counts: list[int]) -> list[list[np.ndarray]]:
    """Return rows of one mask in parts of some lengths, and the rest."""
    return [[part] for part in np.split(mask, np.cumsum(counts))]


@pytest.mark.parametrize("colors", [None, palette(3), palette(255)])
@pytest.mark.parametrize("size", [(1, 1), (31, 5), (64, 3), (97, 1000)])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_mask_has_its_values_and_colors(
    suffix: str, size: tuple[int, int], colors: list[Color] | None, tmp_path: Path
) -> None:
    mask = np.random.default_rng(0).integers(0, len(colors or range(256)), size, dtype=np.uint8)
    path = tmp_path / "new" / f"mask{suffix}"
    write_masks(parts(mask, [0, 1, 32, 5]), [path], size, colors)
    with Image.open(path) as image:
        assert (image.mode, image.size) == ("P" if colors else "L", size[::-1])
        assert (np.asarray(image) == mask).all()
        if colors:
            assert (np.asarray(image.convert("RGB")) == np.array(colors, dtype=np.uint8)[mask]).all()


def test_masks_of_several_classes_grow_together(tmp_path: Path) -> None:
    masks = np.random.default_rng(0).integers(0, 2, (3, 50, 40), dtype=np.uint8) * 255
    files = [tmp_path / f"{name}.png" for name in "abc"]
    write_masks(([*masks[:, top : top + 10]] for top in range(0, 50, 10)), files, (50, 40), None)
    assert all((np.asarray(Image.open(file)) == mask).all() for file, mask in zip(files, masks, strict=True))


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
@pytest.mark.parametrize("big", [False, True])
def test_both_kinds_of_tiff_are_read_by_others(big: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.inference.mask_rows.CLASSIC_LIMIT", 0 if big else 2**31)
    mask = np.random.default_rng(0).integers(0, 4, (1000, 70), dtype=np.uint8)
    write_masks(parts(mask, [300]), [tmp_path / "a.tif"], mask.shape, palette(4))
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.is_bigtiff == big
        assert (file.asarray() == mask).all()
        assert (palette(4) == file.pages[0].colormap[:, :4].T // 257).all()
        assert file.pages[0].offset % 8 == 0
    rasterio = pytest.importorskip("rasterio")
    with rasterio.open(tmp_path / "a.tif", "r+") as file:
        file.transform = rasterio.Affine(0.5, 0, 388_000, 0, -0.5, 5_820_000)
    with rasterio.open(tmp_path / "a.tif") as file:
        assert (file.read(1) == mask).all()
        assert file.transform.a == 0.5
        assert [file.colormap(1)[index][:3] for index in range(4)] == palette(4)


@pytest.mark.parametrize("kind", [PngRows, TiffRows])
def test_rows_are_in_the_file_before_the_last_one_is_known(kind: type[PngRows | TiffRows]) -> None:
    file = io.BytesIO()
    mask = kind(file, (3200, 500), None)
    rows = np.random.default_rng(0).integers(0, 256, (320, 500), dtype=np.uint8)  # noise cannot be compressed
    for count in range(1, 10):
        mask.write(rows)
        assert abs(file.tell() - count * rows.size) < 0.05 * rows.size * count + 50_000


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_a_full_disk_is_an_error(name: str, tmp_path: Path) -> None:
    (tmp_path / name).symlink_to("/dev/full")
    mask = np.zeros((100, 100), dtype=np.uint8)
    with pytest.raises(OSError, match="No space left"):
        write_masks(parts(mask, [50]), [tmp_path / name], mask.shape, None)
