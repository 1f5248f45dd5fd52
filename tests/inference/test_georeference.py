"""Masks of georeferenced images lie where their images lie."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from finetune.inference import ClassIndices, ClassMasks, Predictor
from finetune.inference.georeference import is_georeferenced
from finetune.inference.saving import find_names, save_predictions
from finetune.models import Segmenter
from finetune.models.blending import SlidingWindow

rasterio = pytest.importorskip("rasterio")
PLACE = rasterio.Affine(0.5, 0, 388_000, 0, -0.5, 5_820_000)
TURNED = rasterio.Affine(0.4, 0.3, 388_000, 0.3, -0.4, 5_820_000)
SMALL = {"pyramid_channels": 32, "segmentation_channels": 64}


@pytest.fixture(scope="module")
def model() -> Segmenter:
    torch.manual_seed(1)
    return Segmenter("test_resnet.r160_in1k", "fpn", ["sky", "sea", "land"], weights="none", head_options=SMALL)


def draw(
    path: Path, transform: object = PLACE, crs: str | None = "EPSG:25833", repeat: int = 8, **options: object
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 7), dtype=np.uint8).repeat(repeat, 1).repeat(repeat, 2)
    size = {"height": 5 * repeat, "width": 7 * repeat, "count": 3, "dtype": "uint8"}
    with rasterio.open(path, "w", driver="GTiff", crs=crs, transform=transform, **size, **options) as file:
        file.write(pixels)
    return path


@pytest.mark.parametrize("transform", [PLACE, TURNED])
@pytest.mark.parametrize("crs", ["EPSG:25833", "EPSG:4326", None])
def test_a_mask_has_the_place_and_the_classes_of_its_prediction(tmp_path, model, transform, crs):
    predictor, image = Predictor(model, device="cpu"), draw(tmp_path / "in/a.tiff", transform, crs)
    (written,) = save_predictions(predictor, find_names(predictor, image), tmp_path / "out", ["overlays"])
    assert written == tmp_path / "out/masks/a.tif"
    with rasterio.open(image) as source, rasterio.open(written) as mask:
        assert (mask.crs, mask.transform, mask.shape) == (source.crs, source.transform, source.shape)
        assert np.array_equal(mask.read(1), predictor.predict(image)[image])
        assert [mask.colormap(1)[index][:3] for index in range(3)] == ClassIndices(model.class_names).colors
        assert mask.compression.name == "deflate"
    assert Image.open(written).mode == "P"
    assert Image.open(tmp_path / "out/overlays/a.png").size == (56, 40)


def test_a_mask_that_is_written_row_by_row_has_the_place(tmp_path, model, monkeypatch):
    monkeypatch.setattr("finetune.inference.windows.LARGE", 100)
    predictor, image = Predictor(model, device="cpu", window=SlidingWindow(128)), draw(tmp_path / "a.tif", repeat=24)
    (written,) = save_predictions(predictor, find_names(predictor, image), tmp_path / "out")
    with rasterio.open(image) as source, rasterio.open(written) as mask:
        assert (mask.crs, mask.transform, mask.shape) == (source.crs, source.transform, (120, 168))
        assert np.array_equal(mask.read(1), predictor.predict(image)[image])
        assert [mask.colormap(1)[index][:3] for index in range(3)] == ClassIndices(model.class_names).colors
        assert mask.compression.name == "deflate"


def test_each_file_of_a_class_has_the_place(tmp_path, model):
    predictor = Predictor(model, device="cpu", output=ClassMasks(model.class_names, 0.5))
    image = draw(tmp_path / "a.tif")
    written = save_predictions(predictor, find_names(predictor, image), tmp_path / "out")
    assert [path.name for path in written] == ["a_sky.tif", "a_sea.tif", "a_land.tif"]
    for path, expected in zip(written, predictor.predict(image)[image], strict=True):
        with rasterio.open(path) as mask:
            assert (mask.crs.to_epsg(), mask.transform) == (25833, PLACE)
            assert np.array_equal(mask.read(1), expected * 255)


def test_other_images_next_to_it_get_png_masks(tmp_path, model):
    predictor = Predictor(model, device="cpu")
    draw(tmp_path / "in/a.tif")
    Image.new("RGB", (56, 40)).save(tmp_path / "in/b.tif")
    Image.new("RGB", (56, 40)).save(tmp_path / "in/c.png")
    written = save_predictions(predictor, find_names(predictor, tmp_path / "in"), tmp_path / "out")
    assert [path.name for path in written] == ["a.tif", "b.png", "c.png"]


def test_a_missing_package_is_named_and_the_mask_is_a_png(tmp_path, model, monkeypatch, caplog):
    monkeypatch.setattr("finetune.inference.georeference.find_spec", lambda name: None)
    predictor, image = Predictor(model, device="cpu"), draw(tmp_path / "in/a.tif")
    with caplog.at_level(logging.WARNING, "finetune"):
        names = find_names(predictor, tmp_path / "in")
    assert names == {image: Path("a.png")}
    assert "1 images, such as" in caplog.text
    assert "pip install 'finetune-seg[geo]'" in caplog.text


def test_what_has_no_affine_transform_is_not_georeferenced(tmp_path):
    points = [rasterio.control.GroundControlPoint(row, row, row, row) for row in (0, 20, 39)]
    assert is_georeferenced(draw(tmp_path / "a.tif"))
    assert not is_georeferenced(draw(tmp_path / "points.tif", None, gcps=points))
    (tmp_path / "broken.tif").write_bytes(b"II*\0broken")
    assert not is_georeferenced(tmp_path / "broken.tif")
