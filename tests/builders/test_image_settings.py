"""Channels and value range that are worked out from the training images, stored, and used from then on."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import finetune
from finetune.builders.checks.training import check
from finetune.builders.dummy_step import batch_shape
from finetune.builders.image_settings import image_channels
from finetune.builders.model import build_model
from finetune.builders.recipe import with_placeholders_for_recipe
from finetune.config.compose import load_config
from finetune.config.errors import ConfigError
from finetune.data.images.reading import read_image
from tests.samples import draw_folder, on_folder, save
from tests.tiff_writer import write_tiff

pytestmark = pytest.mark.usefixtures("without_figures")


def draw(root: Path, kind: str, count: int = 12) -> Path:
    """Write a folder of images of a kind: gray, deep (12 bit in a file of 16), rgba, or a number of bands."""
    draw_folder(root, [f"{i:02d}" for i in range(count)])
    for path in sorted((root / "images").iterdir()):
        color = np.asarray(Image.open(path))
        if kind == "gray":
            save(path, color[..., 0])
        elif kind == "deep":
            save(path, color[..., 0].astype(np.uint16) * 16)
        elif kind == "rgba":
            save(path, np.dstack([color, color[..., 0]]))
        else:
            path.unlink()
            bands = np.repeat(color[..., :1], int(kind), axis=2).astype(np.uint16)
            write_tiff(path.with_suffix(".tif"), bands, extra=(0,) * (int(kind) - 1))
    return root


def checked(root: Path, *overrides: str) -> dict:
    config = load_config([*on_folder(root), *overrides], "train")
    return check(config)[0]


@pytest.mark.parametrize(
    ("kind", "overrides", "channels", "has_range"),
    [
        ("gray", (), 1, False),
        ("gray", ("backbone.in_channels=3",), 3, False),
        ("rgba", (), 3, False),
        ("rgba", ("backbone.in_channels=4",), 4, False),
        ("deep", (), 1, True),
        ("deep", ("data.value_range=[0,4080]",), 1, True),
        ("5", (), 5, True),
    ],
)
def test_settings_that_are_auto_are_those_of_the_training_images(
    tmp_path: Path, kind: str, overrides: tuple[str, ...], channels: int, has_range: bool
) -> None:
    if kind == "5":
        pytest.importorskip("tifffile")
    config = checked(draw(tmp_path / "data", kind), *overrides)
    value_range = config["data"]["value_range"]
    assert config["backbone"]["in_channels"] == channels
    assert (value_range is not None) == has_range
    if "data.value_range=[0,4080]" in overrides:
        assert value_range == [0, 4080]
    if kind == "5":
        assert len(value_range) == 5


@pytest.mark.parametrize(
    ("kind", "override", "message"),
    [
        ("gray", "data.value_range=[0,4095]", r"data\.value_range=\[0, 4095\] has no effect"),
        ("deep", "data.value_range=[9,1]", r"data\.value_range=\[9, 1\]: expected \[low,high\]"),
        ("deep", "data.value_range=null", "holds 16-bit values"),
        ("gray", "backbone.in_channels=4", "has 1 band, but the model takes 4 channels"),
        ("gray", "backbone.in_channels=0", r"backbone\.in_channels=0: expected a whole number of 1 or more"),
        ("gray", "backbone.mean=[0.5,0.5,0.5]", r"backbone\.mean=.*: expected 1 numbers"),
    ],
)
def test_settings_that_do_not_fit_the_images_are_refused(
    tmp_path: Path, kind: str, override: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        checked(draw(tmp_path / "data", kind), override)


def test_without_images_a_model_has_three_channels() -> None:
    config = with_placeholders_for_recipe(load_config(["data=synthetic", "backbone.weights=none"], "train"))
    assert (config["backbone"]["in_channels"], image_channels(config)) == ("auto", 3)
    assert batch_shape(config)[1] == 3


@pytest.mark.parametrize("channels", [2, 5, 8])
def test_any_number_of_channels_makes_a_model(channels: int) -> None:
    config = load_config([*on_folder(Path()), f"backbone.in_channels={channels}"], "train")
    model = build_model(config, ("a", "b")).eval()
    images = torch.zeros(1, channels, 32, 32, dtype=torch.uint8)
    assert len(model.mean.flatten()) == len(model.std.flatten()) == channels
    assert model(model.normalize(images)).shape == (1, 2, 32, 32)


def test_a_run_stores_what_was_found_and_reads_images_with_it(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    root = draw(tmp_path / "data", "deep")
    run = finetune.train(*on_folder(root), "output=run")
    value_range = yaml.safe_load((run.folder / "config.yaml").read_text())["data"]["value_range"]
    assert json.loads((run.folder / "model" / "config.json").read_text())["data"]["value_range"] == value_range
    assert f"data.value_range={str(value_range).replace(' ', '')}" in capsys.readouterr().out
    assert finetune.evaluate("run=run").scores == run.scores

    image = root / "images" / "00.png"
    predictor = finetune.load(run.folder, device="cpu")
    expected = predictor.predict_image(read_image(image, 1, value_range)).numpy()
    for path in (run.folder, run.best):  # the checkpoint has it from its run folder
        assert (next(iter(finetune.load(path, "cpu").predict(image).values())) == expected).all()
    other = finetune.load(run.folder, "cpu", value_range=[0, 65_535])
    assert not torch.equal(other.read(image), predictor.read(image))

    resumed = finetune.train(*on_folder(root), "resume=run", "trainer.max_epochs=2")
    assert yaml.safe_load((resumed.folder / "config.yaml").read_text())["data"]["value_range"] == value_range


@pytest.mark.slow
def test_a_model_that_starts_from_another_has_its_channels(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    color, gray = draw_folder(tmp_path / "color"), draw(tmp_path / "gray", "gray")
    finetune.train(*on_folder(color), "output=run", "+trainer.limit_train_batches=1")
    assert checked(gray, "init_from=run")["backbone"]["in_channels"] == 3


def test_images_with_other_bands_than_the_model_are_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    four, three = draw(tmp_path / "four", "rgba"), draw_folder(tmp_path / "three")
    finetune.train(*on_folder(four), "backbone.in_channels=4", "output=run", "+trainer.limit_train_batches=1")
    message = r"photo_00\.png' has 3 bands, but the model takes 4 channels"
    with pytest.raises(ConfigError, match=message):
        finetune.evaluate("run=run", f"data.root={three}")
    with pytest.raises(ConfigError, match=message):
        finetune.predict("run=run", f"input={three / 'images'}", "output=masks")
    assert not (tmp_path / "masks").exists()


def test_masks_of_turned_images_are_warned_about(tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "data", size=(32, 32))
    exif = Image.Exif()
    exif[0x0112] = 6
    for path in (root / "images").iterdir():
        Image.open(path).save(path, exif=exif)
    _, data = check(load_config([*on_folder(root)], "train"))
    assert "12 images carry an EXIF rotation, such as image" in data.warnings[0]
