"""The temperature of a finished model: fitted on validation images, stored, used, and without effect on the masks."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import finetune
from finetune.builders.task import restore_output
from finetune.checkpoints.saved_model import load_model, save_model, store_temperature
from finetune.commands.train import TrainResult
from finetune.config.errors import ConfigError
from finetune.data import read_image, read_mask
from finetune.data.splitting.split_file import read_splits
from finetune.inference import ClassIndices
from finetune.metrics.temperature import fit_temperature
from finetune.models import Segmenter
from tests.samples import draw_folder, on_folder

pytestmark = pytest.mark.usefixtures("without_figures")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images with masks."""
    return draw_folder(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """Return a run on them."""
    overrides = ("data.val=0.25", "optimizer.lr=2e-2", "trainer.max_epochs=3", "tta=flip")
    return finetune.train(*on_folder(photos), *overrides, f"output={tmp_path_factory.mktemp('run')}")


@pytest.fixture
def run(trained: TrainResult, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained.folder, tmp_path / "run"))


def test_the_temperature_is_that_of_all_validation_pixels_and_the_masks_stay_the_same(
    run: Path, photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, masks = finetune.load(run, "cpu").model, finetune.load(run, "cpu").predict(photos / "images")
    names = [name for name, split in read_splits(run / "splits.csv").items() if split == "val"]
    assert len(names) == 3
    pixels = []
    for name in names:
        with torch.inference_mode():
            image = read_image(photos / "images" / f"{name}.png")[None]
            pixels.append((model(model.normalize(image))[0].flatten(1).T, read_mask(photos / "masks" / f"{name}.png")))
    labels = torch.cat([mask.flatten().long() for _, mask in pixels])
    expected = fit_temperature(torch.cat([logits for logits, _ in pixels]), labels)
    with caplog.at_level("INFO", "finetune"):
        result = finetune.calibrate(f"run={run}", "device=cpu")
    assert result.temperature == pytest.approx(expected, rel=1e-4)
    assert f"of {3 * 32 * 40:,} pixels of 3 val images" in caplog.text
    assert result.ece_after != result.ece_before
    calibrated = finetune.load(run, "cpu")
    assert calibrated.model.temperature == result.temperature
    for path, mask in calibrated.predict(photos / "images").items():
        assert np.array_equal(mask, masks[path])


def test_evaluations_use_the_temperature_and_a_second_calibration_does_not_add_up(run: Path) -> None:
    first = finetune.calibrate(f"run={run}", "device=cpu")
    plain = finetune.evaluate(f"run={run}", "split=val")
    facts = json.loads((plain.folder / "calibration.json").read_text())
    assert facts["temperature"] == first.temperature
    assert facts["ece"] == pytest.approx(first.ece_after, abs=1e-6)  # of the same pixels, which are few enough
    assert finetune.calibrate(f"run={run / 'model'}", "device=cpu").temperature == first.temperature


def test_a_checkpoint_has_no_config_to_store_a_temperature_in(run: Path) -> None:
    with pytest.raises(ConfigError, match=r"best\.ckpt' has no config\.json of a finished model"):
        finetune.calibrate(f"run={run / 'checkpoints' / 'best.ckpt'}")


@pytest.fixture(scope="module")
def model() -> Segmenter:
    """Return a small model with random weights."""
    torch.manual_seed(0)
    return Segmenter("test_resnet.r160_in1k", "fpn", ["a", "b", "c"], weights="none").eval()


@pytest.mark.parametrize("temperature", [0.3, 2.7])
def test_thresholds_follow_the_temperature_so_that_masks_stay_the_same(
    model: Segmenter, tmp_path: Path, temperature: float
) -> None:
    task = {"name": "multilabel", "thresholds": [0.0, 0.5, 0.45]}
    save_model(tmp_path, model, {}, {}, task)
    image = torch.randint(0, 256, (1, 3, 64, 64), generator=torch.Generator().manual_seed(0)).byte()
    masks = []
    for former, now in ((1.0, 1.0), (1.0, temperature), (temperature, 1.5)):
        store_temperature(tmp_path / "config.json", now, former)
        saved = load_model(tmp_path)
        with torch.inference_mode():
            logits = saved.model(saved.model.normalize(image))
        masks.append(restore_output(saved.task, saved.model.class_names).decode(logits))
    assert saved.task["thresholds"] == pytest.approx([0.0, 0.5, 1 / (1 + (55 / 45) ** (1 / 1.5))])
    assert torch.equal(masks[1], masks[0])
    assert torch.equal(masks[2], masks[0])
    assert 0 < float(masks[0][0, 2].float().mean()) < 1


def test_logits_are_divided_by_the_temperature_outside_of_training_only(model: Segmenter) -> None:
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    hot = Segmenter.from_config({**model.config(), "temperature": 2.0}).eval()
    hot.load_state_dict(model.state_dict())
    with torch.inference_mode():
        assert torch.equal(hot(images), model(images) / 2)
        p = ClassIndices("abc").probabilities(hot(images))
        assert torch.allclose(p, (model(images) / 2).softmax(1))
        in_training = []
        for each in (hot, model):
            torch.manual_seed(0)  # of the dropout
            in_training.append(each.train()(images))
        model.eval()
        assert torch.equal(*in_training)


def test_models_of_earlier_versions_have_the_temperature_one_and_others_are_checked(model: Segmenter) -> None:
    config = model.config()
    assert config.pop("temperature") == 1.0
    assert Segmenter.from_config(config).temperature == 1.0
    for wrong in (0, -1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=r"temperature=.*: expected a number above 0"):
            Segmenter.from_config({**config, "temperature": wrong})


def test_a_batch_size_of_auto_is_that_of_an_evaluation(run: Path) -> None:
    given = finetune.calibrate(f"run={run}", "device=cpu", "data.batch_size=auto").temperature
    assert given == pytest.approx(finetune.calibrate(f"run={run}", "device=cpu").temperature)
