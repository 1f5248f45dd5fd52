"""Tiles of an image put together are the image, and those of its mask the mask."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from finetune.data import DataError, Record, inspect
from finetune.data.dataset import read_pair
from finetune.data.files import ClassMaskFiles, ImageFile, LayeredMaskFiles, MaskFile
from finetune.data.polygons.annotated import DrawnMask
from finetune.data.polygons.shapes import Ellipse, Polygon, rectangle
from finetune.data.records import Target
from finetune.data.sources import SyntheticSource
from finetune.data.tiles import check_tiles, describe_tiles, with_tiles

SIZE = (50, 70)
TILE = (16, 24)


def noise(high: int = 255, seed: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, high, size).astype(np.uint8)


def save(path: Path, pixels: np.ndarray | Image.Image, **options: object) -> Path:
    if path.suffix == ".npy":
        np.save(path, pixels)
    elif path.suffix == ".tif" and isinstance(pixels, np.ndarray):
        pytest.importorskip("tifffile").imwrite(path, pixels, tile=(16, 16), photometric="minisblack", **options)
    else:
        (Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels).save(path, **options)
    return path


def joined(tiles: Sequence[Record], read: str) -> Tensor:
    """Return what the images or the targets of tiles hold, at its place in the whole."""
    parts = [(tile.image.window, getattr(tile, read).read()) for tile in tiles]
    whole = torch.full((*parts[0][1].shape[:-2], *SIZE), 77, dtype=torch.uint8)
    for window, part in parts:
        whole[..., window.rows, window.columns] = part
    return whole


def tiles_of(image: Path, target: Target) -> list[Record]:
    return with_tiles([Record("photo", ImageFile(image), target, "val")], TILE)[0]


def color(values: np.ndarray) -> Image.Image:
    image = Image.fromarray(values)
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    return image


@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy"])
def test_images_and_masks_are_the_whole_when_put_together(tmp_path, suffix):
    image, mask = save(tmp_path / f"a{suffix}", noise()), save(tmp_path / f"b{suffix}", noise(3, 1))
    tiles = tiles_of(image, MaskFile(mask))
    assert torch.equal(joined(tiles, "image"), ImageFile(image).read())
    assert torch.equal(joined(tiles, "target"), torch.from_numpy(noise(3, 1)))


def test_masks_with_a_palette_give_indices_or_colors(tmp_path):
    image = save(tmp_path / "a.png", noise())
    for suffix in (".png", ".tif"):
        if suffix == ".tif":
            pytest.importorskip("tifffile")
        mask = save(tmp_path / f"b{suffix}", color(noise(3, 1)))
        for target in (MaskFile(mask), MaskFile(mask, ["#00ff00", "#000000", "#ff0000"])):
            assert torch.equal(joined(tiles_of(image, target), "target"), target.read())
        assert not torch.equal(target.read(), MaskFile(mask).read())


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_soft_edges_become_the_class_nearby_even_beyond_the_tile(tmp_path, suffix):
    mask = save(tmp_path / f"m{suffix}", noise(256, 2))
    target = MaskFile(mask, [[0, 1, 2, 60], [90, 255, 180, 200]], 255 // 2, snap=True)
    image = save(tmp_path / "a.png", noise())
    assert torch.equal(joined(tiles_of(image, target), "target"), target.read())


@pytest.mark.parametrize("factor", [0.5, 2])
def test_a_mask_at_another_scale_is_resized_as_the_whole_is(tmp_path, factor):
    size = (int(SIZE[0] * factor), int(SIZE[1] * factor))
    image, mask = save(tmp_path / "a.png", noise()), save(tmp_path / "m.npy", noise(9, 3, size))
    expected = read_pair(Record("photo", ImageFile(image), MaskFile(mask)))[1]
    assert torch.equal(joined(tiles_of(image, MaskFile(mask)), "target"), expected)


def test_a_mask_of_another_shape_is_named(tmp_path):
    tiles = tiles_of(save(tmp_path / "a.png", noise()), MaskFile(save(tmp_path / "m.npy", noise(9, 3, (50, 60)))))
    with pytest.raises(DataError, match=r"a\.png' is \(50, 70\) and its mask '.*m\.npy' \(50, 60\)"):
        tiles[0].target.read()


def test_files_of_classes_and_layers_are_the_whole_when_put_together(tmp_path):
    image = save(tmp_path / "a.png", noise())
    masks = [save(tmp_path / f"{i}.png", noise(2, i)) for i in range(2)]
    for target in (
        ClassMaskFiles(image, (masks[0], None, masks[1])),
        ClassMaskFiles(image, (None, None)),
        LayeredMaskFiles(image, ((masks[0], 1), (masks[1], 2))),
        LayeredMaskFiles(image, ()),
    ):
        assert torch.equal(joined(tiles_of(image, target), "target"), target.read())


def test_masks_of_one_image_that_differ_in_size_are_named(tmp_path):
    image, small = save(tmp_path / "a.png", noise()), save(tmp_path / "s.png", noise(2, 0, (40, 70)))
    tiles = tiles_of(image, ClassMaskFiles(image, (image, small)))
    with pytest.raises(DataError, match=r"differ in size: '.*a\.png' is 50x70 and '.*s\.png' is 40x70"):
        tiles[0].target.read()


def test_shapes_are_drawn_in_the_tile_where_they_are(tmp_path):
    image = save(tmp_path / "a.png", noise())
    shapes = (
        (1, (Polygon(rectangle(5, 5, 44.5, 30)), Ellipse(60, 40, 20, 9, 0.4))),
        (2, (Polygon(np.array([[-9.0, 60], [30, 10], [90, 49]])),)),
        (3, (Polygon(rectangle(0.5, 0.5, 0.6, 0.9), relative=True),)),
    )
    target = DrawnMask(image, Path("a.json"), shapes, size=SIZE)
    assert torch.equal(joined(tiles_of(image, target), "target"), target.read())
    assert set(target.read().unique().tolist()) == {0, 1, 2, 3}


def test_tiles_keep_the_split_and_the_group_and_have_names_of_their_own(tmp_path):
    image = ImageFile(save(tmp_path / "a.png", noise()))
    records = [Record("photo", image, split="val"), Record("other", image, split="train", group="patient", weight=2)]
    first, second = with_tiles(records, TILE)
    assert [tile.name for tile in first[:4]] == [f"photo[0-14,{part}]" for part in ("0-24", "24-48", "48-70")] + [
        "photo[14-28,0-24]"
    ]
    assert {(tile.split, tile.group) for tile in first} == {("val", "photo")}
    assert {(tile.split, tile.group, tile.weight) for tile in second} == {("train", "patient", 2)}
    assert first[0].description.endswith("a.png' [0-14,0-24]")


def test_an_image_that_fits_is_left_as_it_is(tmp_path):
    record = Record("photo", ImageFile(save(tmp_path / "a.png", noise())))
    assert with_tiles([record], SIZE) == [[record]]
    missing = Record("missing", ImageFile(tmp_path / "missing.png"))
    assert with_tiles([missing], TILE) == [[missing]]


def test_images_that_are_no_files_are_named():
    with pytest.raises(DataError, match=r"is not a file, and only image files have tiles\. Set data\.tiles=null"):
        with_tiles(SyntheticSource(count=8).records(), TILE)


def test_too_many_tiles_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("finetune.data.tiles.MOST_TILES", 11)
    with pytest.raises(DataError, match=r"a\.png' claims to have 70 x 50 pixels: 12 tiles"):
        tiles_of(save(tmp_path / "a.png", noise()), MaskFile(tmp_path / "a.png"))


@pytest.mark.parametrize("tiles", [0, (0, 5), -3, (100_000, 100_000)])
def test_a_tile_has_a_size_that_can_be_decoded(tiles):
    with pytest.raises(ValueError, match=r"tiles=.*: expected a size in pixels"):
        check_tiles(tiles)


def test_the_classes_of_the_tiles_add_up_to_those_of_the_whole(tmp_path):
    image, mask = save(tmp_path / "a.png", noise()), save(tmp_path / "m.png", noise(3, 1))
    record = Record("photo", ImageFile(image), MaskFile(mask), "train")
    whole, tiles = inspect([record], 3), inspect(tiles_of(image, MaskFile(mask)), 3)
    assert torch.equal(whole["train"].pixels, tiles["val"].pixels)
    assert tiles["val"].images == 12


def test_lines_say_how_many_images_were_cut_and_which_are_slow(tmp_path):
    files = [
        save(tmp_path / "a.png", noise()),
        save(tmp_path / "b.npy", noise()),
        save(tmp_path / "c.png", noise()[:9, :9]),
    ]
    tiled = with_tiles([Record(path.stem, ImageFile(path)) for path in files], TILE)
    assert describe_tiles(tiled, TILE) == [
        "2 of 3 images are larger than 16x24 pixels and are taken as 24 tiles (data.tiles)",
        "1 of them are decoded as a whole for each tile; a tiled TIFF is read in parts",
    ]
