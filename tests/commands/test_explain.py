"""The command `explain`: what it writes, for one class and several classes per pixel, and what it refuses."""

import csv
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import finetune
from finetune.checkpoints.saved_model import save_model
from finetune.config.errors import ConfigError
from finetune.models import Segmenter
from tests.samples import SYNTHETIC, exit_code, save

pytestmark = pytest.mark.usefixtures("without_figures")
CLASSES = ["ground", "wall", "sky"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of two images of different sizes."""
    folder, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name, size in (("a", (37, 45)), ("deep/b", (48, 32))):
        save(folder / f"{name}.png", random.integers(0, 256, (*size, 3), dtype=np.uint8))
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a model for each task, `semantic` and `multilabel`; none predicts the last class."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    model = Segmenter("test_vit.r160_in1k", "linear", CLASSES, weights="none")
    model.get_parameter("head.0.bias").data[2] = -1000
    for task in ("semantic", "multilabel"):
        save_model(folder / task, model, {}, {}, {"name": task})
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run on weights from a file."""
    folder = tmp_path_factory.mktemp("run")
    torch.save(timm.create_model("test_resnet").state_dict(), folder / "weights.pth")
    weights = f"backbone.weights={folder / 'weights.pth'}"
    return finetune.train(*SYNTHETIC, "data.size=64", weights, "optimizer.lr=0.01", f"output={folder / 'run'}").folder


@pytest.mark.parametrize(
    ("method", "task"),
    [("gradcam", "semantic"), ("rollout", "semantic"), ("gradcam", "multilabel"), ("occlusion", "multilabel")],
)
def test_each_image_gets_a_page_and_a_heat_map_of_its_size(
    method: str, task: str, models: Path, photos: Path, tmp_path: Path
) -> None:
    setting = (f"run={models / task}", f"input={photos}", f"output={tmp_path / 'out'}", f"method={method}")
    square = ["patch=16"] if method == "occlusion" else []
    pages = finetune.explain(*setting, "class=wall", "region=[0,0,16,20]", *square)
    assert pages == [tmp_path / "out" / "a.png", tmp_path / "out" / "deep" / "b.png"]
    for page, shape in zip(pages, ((37, 45), (48, 32)), strict=True):
        heat = np.load(page.with_suffix(".npy"))
        assert heat.shape == shape
        assert heat.dtype == np.float32
        assert np.isfinite(heat).all()
        assert method == "gradcam" or heat.std() > 0
        assert Image.open(page).width > 1000


def test_images_without_a_pixel_of_the_class_are_left_out_and_named(
    models: Path, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "finetune")
    setting = (f"run={models / 'semantic'}", f"input={photos}", f"output={tmp_path / 'out'}")
    assert finetune.explain(*setting, "class=sky") == []
    assert f"2 images have no pixel that is predicted as the class, and are left out: {photos / 'a.png'}" in caplog.text
    assert len(finetune.explain(*setting, "class=wall")) == 2


def test_files_that_cannot_be_read_are_named_when_all_others_have_been_explained(
    models: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.png", "c.png"):
        (tmp_path / name).write_text("no image")
    setting = (f"run={models / 'semantic'}", "class=wall", f"output={tmp_path / 'out'}")
    files = [tmp_path / "a.png", photos / "deep" / "b.png", tmp_path / "c.png"]
    assert exit_code("explain", *setting, f"input=[{','.join(map(str, files))}]") == 2
    printed = capsys.readouterr().err
    assert "2 of 3 files cannot be read:" in printed
    assert all(f"cannot read '{file}'" in printed for file in (files[0], files[2]))
    assert f"The heat maps of the others are in '{tmp_path / 'out'}'" in printed
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["b.npy", "b.png"]
    assert exit_code("explain", *setting[:2], f"output={tmp_path / 'none'}", f"input={files[0]}") == 2
    assert "The heat maps of the others" not in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_cka_compares_a_run_with_the_weights_that_it_started_from(run: Path, photos: Path, tmp_path: Path) -> None:
    figure = finetune.explain(f"run={run}", "method=cka")
    assert figure == [run / "explanations" / "cka" / "cka.png"]
    with figure[0].with_suffix(".csv").open(newline="") as file:
        rows = {row["layer"]: float(row["cka"]) for row in csv.DictReader(file)}
    assert list(rows) == ["act1", "layer1", "layer2", "layer3", "layer4"]
    assert all(0 < value < 0.9999 for value in rows.values())
    assert finetune.explain(f"run={run}", "method=cka")[0].parent == run / "explanations" / "cka_2"
    other = finetune.explain(f"run={run}", "method=cka", "images=1", f"input={photos}", f"output={tmp_path / 'out'}")
    assert other[0].with_suffix(".csv").read_text() != figure[0].with_suffix(".csv").read_text()


def test_cka_needs_pretrained_weights(models: Path, run: Path) -> None:
    with pytest.raises(ConfigError, match="without the config of its run, so there are no pretrained weights"):
        finetune.explain(f"run={models / 'semantic'}", "method=cka")
    config = (run / "config.yaml").read_text()
    try:
        (run / "config.yaml").write_text(config.replace(str(run.parent / "weights.pth"), "none"))
        with pytest.raises(ConfigError, match=r"trained with backbone\.weights=none, so there are no pretrained"):
            finetune.explain(f"run={run}", "method=cka")
    finally:
        (run / "config.yaml").write_text(config)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("class=skyy",), "class=skyy: Did you mean sky?"),
        (("method=lime",), "choose from gradcam, occlusion, rollout, cka"),
        (("patch=8",), "patch=8 has no effect with method=gradcam, only with occlusion"),
        (("method=cka", "class=sky"), "class=sky has no effect with method=cka"),
        (("layer=0",), "layer=0: expected a whole number"),
        (("layer=3",), "layer=3: the head reads feature maps of the levels"),
        (("region=[0,0,9]",), "expected [top,left,bottom,right] in pixels"),
        (("region=[0,0,99,9]",), "inside 37 x 45 pixels"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    settings: tuple[str, ...],
    message: str,
    models: Path,
    photos: Path,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert exit_code("explain", f"run={models / 'semantic'}", f"input={photos}", "output=out", *settings) == 2
    assert message in capsys.readouterr().err
    assert not Path("out").exists()
