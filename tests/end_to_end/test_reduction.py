"""A model that sees images at a fraction of their size: trained on small ones, scored and used on whole ones."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import finetune
from finetune.builders.checks.training import check
from finetune.checkpoints.saved_model import load_model
from finetune.commands.train import TrainResult
from finetune.config.compose import load_config
from finetune.data.reduction import reduce_image
from finetune.exporters.exporter import ExportError
from tests.samples import MODEL, draw_folder, exit_code, on_folder, save

SIZE = (90, 130)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_folder(tmp_path_factory.mktemp("photos"), size=SIZE)


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    folder = tmp_path_factory.mktemp("runs") / "run"
    settings = ("backbone.reduce=2", "trainer.max_epochs=2", "optimizer.lr=1e-2", "data.cache=ram")
    return finetune.train(*on_folder(photos), *settings, f"output={folder}")


def test_final_scores_are_those_of_whole_images(run: TrainResult, photos: Path) -> None:
    again = finetune.evaluate(f"run={run.folder}", "trainer.accelerator=cpu")
    assert again.scores == pytest.approx({name.removeprefix("test/"): v for name, v in run.scores.items()}, abs=0)
    counted = (run.folder / "evaluation" / "test" / "images.csv").read_text().splitlines()
    assert len(counted) == 1 + 2
    masks = finetune.load(run.folder, device="cpu").predict(photos / "images")
    assert {mask.shape for mask in masks.values()} == {SIZE}


def test_a_prediction_is_that_of_the_reduced_image_enlarged(run: TrainResult, photos: Path) -> None:
    model = load_model(run.folder).model
    assert model.reduce == 2
    image = torch.from_numpy(np.array(Image.open(photos / "images" / "photo_00.png"))).permute(2, 0, 1)
    with torch.inference_mode():
        whole = model(model.normalize(image[None]))
        model.takes_reduced = True
        small = model(model.normalize(reduce_image(image, 2)[None]))
    enlarged = torch.nn.functional.interpolate(small, scale_factor=2, mode="bilinear")
    assert (whole.argmax(1) == enlarged.argmax(1)).float().mean() > 0.98


def test_large_photos_are_reduced_without_a_word_of_the_user(tmp_path: Path) -> None:
    mask = np.zeros((1200, 1600), dtype=np.uint8)
    mask[300:900, 400:1200] = 1
    for index in range(6):
        save(tmp_path / "images" / f"{index}.png", np.repeat(mask[..., None] * 150 + index, 3, 2))
        save(tmp_path / "masks" / f"{index}.png", mask)
    config = load_config([*MODEL, f"data.root={tmp_path}", "trainer.accelerator=cpu"], "train")
    config, data = check(config)
    assert config["backbone"]["reduce"] == 2
    assert config["augment"]["crop"] == 320
    assert {split: data.datasets[split].reduce for split in data.datasets} == {"train": 2, "val": 2, "test": 1}
    assert data.datasets["val"][0]["image"].shape == (3, 600, 800)
    (reason,) = [line for line in data.reasons if line.startswith("backbone.reduce")]
    assert "the median image is 1200 x 1600, and the narrowest class, foreground, is 343 pixels wide" in reason


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("backbone.reduce=3",), "backbone.reduce=3: expected 1 for images as they are, or 2, 4, 8 or auto"),
        (("backbone.reduce=2", "task=instance", "data.instances=components"), "task=instance finds objects in images"),
    ],
)
def test_factors_that_there_are_not_are_refused(
    overrides: tuple[str, ...], message: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = [override for override in on_folder(photos) if not override.startswith("head")]
    head = () if "task=instance" in overrides else ("head=fpn",)
    assert exit_code("train", *plain, *head, *overrides, f"output={tmp_path / 'run'}") == 2
    assert message in capsys.readouterr().err


def test_exported_files_reduce_images_themselves(run: TrainResult, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
    exported = finetune.export(f"run={run.folder}", "format=onnx", f"output={tmp_path / 'onnx'}")
    assert exported.agreement.difference < 1e-3
    with pytest.raises(ExportError, match=r"with .*reduce=2"):
        finetune.export(f"run={run.folder}", "format=smp", f"output={tmp_path / 'smp'}")
    assert json.loads((run.folder / "model" / "config.json").read_text())["model"]["reduce"] == 2
