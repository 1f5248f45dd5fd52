"""Several views of an image, and several models, against their means by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch

import finetune
from finetune.commands.train import TrainResult
from finetune.config.errors import ConfigError
from finetune.data import read_image, read_mask
from finetune.data.splitting.split_file import read_splits
from finetune.inference import Predictor
from finetune.models.views import Views
from tests.samples import draw_folder, on_folder

pytestmark = pytest.mark.usefixtures("without_figures")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen images with masks."""
    return draw_folder(tmp_path_factory.mktemp("photos"), [f"photo_{i:02d}" for i in range(16)])


@pytest.fixture(scope="module")
def folds(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> list[TrainResult]:
    """Return two runs of a cross-validation, which share their test images; the first ships with flipped views."""
    folder = tmp_path_factory.mktemp("folds")
    common = (*on_folder(photos), "data.folds=2", "data.test=0.25", "optimizer.lr=2e-2", "trainer.max_epochs=4")
    return [
        finetune.train(*common, f"data.fold={fold}", f"tta={tta}", f"output={folder / str(fold)}")
        for fold, tta in enumerate(("flip", "none"))
    ]


def matrix(predictor: Predictor, photos: Path, names: list[str]) -> torch.Tensor:
    """Count the pixels of predictions, file by file."""
    counts = torch.zeros(3, 3, dtype=torch.int64)
    for name in names:
        guess = predictor.predict_image(read_image(photos / "images" / f"{name}.png"))
        truth = read_mask(photos / "masks" / f"{name}.png")
        np.add.at(counts.numpy(), (truth.numpy(), guess.numpy()), 1)
    return counts


@pytest.fixture(scope="module")
def tested(folds: list[TrainResult]) -> list[str]:
    """Names of the test images, which no run has trained on."""
    splits = [read_splits(run.folder / "splits.csv") for run in folds]
    names = [sorted(name for name, split in split.items() if split == "test") for split in splits]
    assert names[0] == names[1]
    assert len(names[0]) == 4
    return names[0]


def test_the_final_scores_of_a_training_are_those_of_its_views(
    folds: list[TrainResult], photos: Path, tested: list[str]
) -> None:
    predictor = finetune.load(folds[0].folder, "cpu")
    assert predictor.model.views is not None
    assert predictor.model.views.all == Views(["horizontal"]).all
    counts = matrix(predictor, photos, tested)
    result = finetune.evaluate(f"run={folds[0].folder}")
    assert torch.equal(result.matrix, counts)
    assert result.scores == folds[0].scores


def test_views_of_an_evaluation_replace_those_of_the_run(
    folds: list[TrainResult], photos: Path, tested: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    predictor = finetune.load(folds[0].folder, "cpu")
    predictor.model.views = None
    plain = finetune.evaluate(f"run={folds[0].folder}", "tta=none")
    assert torch.equal(plain.matrix, matrix(predictor, photos, tested))
    assert "views of each image" not in caplog.text
    with caplog.at_level("INFO", "finetune"):
        scaled = finetune.evaluate(f"run={folds[0].folder}", "tta.scales=[0.5,1.0]")
    assert "4 views of each image: flipped horizontally, scaled by 0.5, 1 (tta)" in caplog.text
    assert not torch.equal(scaled.matrix, plain.matrix)


def test_an_evaluation_scores_what_the_steps_after_the_model_leave(
    folds: list[TrainResult], photos: Path, tested: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    steps = {"guided_filter": {"radius": 2}, "smooth": {"radius": 3}, "min_size": {"pixels": 200}}
    with caplog.at_level("INFO", "finetune"):
        result = finetune.evaluate(
            f"run={folds[0].folder}", "post=[guided_filter,smooth,min_size]", "post.guided_filter.radius=2",
            "post.smooth.radius=3", "post.min_size.pixels=200",
        )  # fmt: skip
    assert "after the model: guided_filter, smooth, min_size (post)" in caplog.text
    assert result.folder == folds[0].folder / "evaluation" / "test_post"
    assert torch.equal(result.matrix, matrix(finetune.load(folds[0].folder, "cpu", post=steps), photos, tested))
    assert not torch.equal(result.matrix, finetune.evaluate(f"run={folds[0].folder}").matrix)


def test_several_runs_predict_with_the_mean_of_their_logits(
    folds: list[TrainResult], photos: Path, tested: list[str]
) -> None:
    first, second = (finetune.load(run.folder, "cpu") for run in folds)
    together = finetune.load([run.folder for run in folds], "cpu")
    with torch.inference_mode():
        for name in tested:
            image = read_image(photos / "images" / f"{name}.png")
            logits = [each.model(each.model.normalize(image[None])) for each in (first, second)]
            assert torch.equal(together.predict_image(image), ((logits[0] + logits[1]) / 2)[0].argmax(0).byte())
    result = finetune.evaluate(f"run=[{folds[0].folder},{folds[1].folder}]")
    assert result.folder == folds[0].folder / "evaluation" / "test_of_2_runs"
    assert torch.equal(result.matrix, matrix(together, photos, tested))
    assert not torch.equal(result.matrix, finetune.evaluate(f"run={folds[0].folder}").matrix)


def test_predict_writes_the_masks_of_several_runs(folds: list[TrainResult], photos: Path, tmp_path: Path) -> None:
    runs = f"run=[{folds[0].folder},{folds[1].folder}]"
    files = finetune.predict(runs, f"input={photos / 'images'}", f"output={tmp_path / 'masks'}", "write=[]")
    together = finetune.load([run.folder for run in folds], "cpu").predict(photos / "images")
    assert {file.stem: read_mask(file).tolist() for file in files} == {
        path.stem: mask.tolist() for path, mask in together.items()
    }


def test_images_that_another_run_trained_on_are_refused(folds: list[TrainResult]) -> None:
    with pytest.raises(ConfigError, match=r"split=val of the first run has 6 images that another run trained on"):
        finetune.evaluate(f"run=[{folds[0].folder},{folds[1].folder}]", "split=val")


def test_models_of_other_classes_do_not_predict_together(
    folds: list[TrainResult], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    others = draw_folder(tmp_path / "others", values=(0, 1))
    other = finetune.train(*on_folder(others), "data.classes=[ground,wall]", f"output={tmp_path / 'run'}")
    with pytest.raises(ConfigError, match="need the same classes, but one has ground, wall, sky and another ground"):
        finetune.evaluate(f"run=[{folds[0].folder},{other.folder}]")


def test_a_command_for_one_model_refuses_a_list(folds: list[TrainResult]) -> None:
    with pytest.raises(ConfigError, match="expected a single text"):
        finetune.export(f"run=[{folds[0].folder},{folds[1].folder}]", "format=safetensors")


def test_wrong_views_are_found_before_a_training(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tta\.flips=\['up'\]: expected horizontal and vertical"):
        finetune.train(*on_folder(photos), "tta.flips=[up]", f"output={tmp_path / 'run'}")
    with pytest.raises(ConfigError, match=r"tta\.rotations=3: expected true or false"):
        finetune.train(*on_folder(photos), "tta.rotations=3", f"output={tmp_path / 'run'}")
