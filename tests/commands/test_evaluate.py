"""Scores of a run on its own images and on other images."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import finetune
from finetune.commands.train import TrainResult
from finetune.config.errors import ConfigError
from finetune.data import read_mask
from finetune.data.module import SegmentationData
from finetune.metrics.confusion import confusion_matrix, iou
from finetune.metrics.image_boundaries import ImageBoundaries, class_scores, mean_scores
from finetune.metrics.measurement import ImageBatch
from finetune.reports.evaluation import read_table
from tests.samples import SYNTHETIC, draw_folder, exit_code, listing, on_folder

pytestmark = pytest.mark.usefixtures("without_figures")

PIXELS = 32 * 40


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen images with masks."""
    return draw_folder(tmp_path_factory.mktemp("photos"), [f"photo_{i:02d}" for i in range(16)])


@pytest.fixture(scope="module")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """Return a run on them: 10 to train, 3 to validate, 3 to test."""
    overrides = ("data.val=0.2", "data.test=0.2", "optimizer.lr=1e-2", "trainer.max_epochs=3")
    return finetune.train(*on_folder(photos), *overrides, f"output={tmp_path_factory.mktemp('run')}")


@pytest.fixture
def run(trained: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the run: its scores must depend neither on its folder nor on the working folder."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(trained.folder, tmp_path / "moved"))


def written_matrix(folder: Path) -> torch.Tensor:
    with (folder / "confusion.csv").open(newline="") as file:
        return torch.tensor([[int(v) for v in row[1:]] for row in list(csv.reader(file))[1:]])


def test_the_test_split_of_the_run_gives_exactly_the_scores_of_the_training(run: Path, trained: TrainResult) -> None:
    result = finetune.evaluate(f"run={run}")
    assert result.scores == trained.scores
    assert torch.equal(result.matrix, written_matrix(run / "evaluation" / "test"))
    assert result.matrix.sum() == 3 * PIXELS


@pytest.mark.parametrize("size", [1, 2, 3])
def test_scores_do_not_depend_on_the_batch_size(run: Path, trained: TrainResult, size: int) -> None:
    assert finetune.evaluate(f"run={run}", f"data.batch_size={size}").scores == trained.scores


@pytest.mark.parametrize("part", ["checkpoints/best.ckpt", "model"])
def test_a_checkpoint_or_model_folder_gives_the_same_scores(run: Path, trained: TrainResult, part: str) -> None:
    assert finetune.evaluate(f"run={run / part}").scores == trained.scores


def test_every_evaluation_writes_a_new_folder(run: Path) -> None:
    before = listing(run)
    folders = [finetune.evaluate(f"run={run}").folder for _ in range(2)]
    assert folders == [run / "evaluation" / "test_2", run / "evaluation" / "test_3"]
    after = listing(run)
    tables = ("classes.csv", "confusion.csv", "images.csv", "interval.json", "scores.json", "calibration.json")
    files = (*tables, "overlaps.npz", "best.png", "calibration.png", "classes.png", "confusion.png", "worst.png")
    names = ("", *(f"/{name}" for name in files))
    assert after.keys() - before.keys() == {f"evaluation/test_{n}{name}" for n in (2, 3) for name in names}
    assert {name: after[name] for name in before} == before


def test_the_table_of_images_has_the_scores_of_each_and_the_worst_first(run: Path, photos: Path) -> None:
    result = finetune.evaluate(f"run={run}")
    with (result.folder / "images.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    scores = [float(row["iou"]) for row in rows]
    assert len(rows) == 3
    assert scores == sorted(scores)
    masks = finetune.load(run, "cpu").predict(photos / "images")
    guesses = {path.stem: torch.from_numpy(mask) for path, mask in masks.items()}
    for row in rows:
        matrix = confusion_matrix(guesses[row["image"]], read_mask(photos / "masks" / f"{row['image']}.png"), 3)
        assert float(row["iou"]) == pytest.approx(float(iou(matrix).nanmean()))
        assert row["iou/ground"] == "" or float(row["iou/ground"]) == pytest.approx(float(iou(matrix)[0]))
    limits = json.loads((result.folder / "interval.json").read_text())
    assert (limits["images"], tuple(limits["iou"])) == (3, result.interval)
    assert result.interval[0] <= result.score <= result.interval[1]


def test_boundaries_are_compared_if_asked_for(
    run: Path, photos: Path, trained: TrainResult, capsys: pytest.CaptureFixture[str]
) -> None:
    result = finetune.evaluate(f"run={run}", "boundaries=true")
    assert result.scores == trained.scores
    assert "boundary IoU 0." in capsys.readouterr().out
    with (result.folder / "images.csv").open(newline="") as file:
        names = [row["image"] for row in csv.DictReader(file)]
    masks = finetune.load(run, "cpu").predict(photos / "images")
    guesses = {path.stem: torch.from_numpy(mask) for path, mask in masks.items()}
    measurement = ImageBoundaries(len(names), 3, 255)
    for index, name in enumerate(names):
        empty, truth = torch.empty(0), read_mask(photos / "masks" / f"{name}.png")
        measurement.update(ImageBatch(torch.tensor([index]), empty, empty, guesses[name][None], truth[None]))
    expected = mean_scores(class_scores(measurement.sums()))
    found = json.loads((result.folder / "boundaries.json").read_text())
    assert found.keys() == expected.keys()
    for name in ("boundary_iou", "boundary_f1_2px", "hd95_px", "compared", "detected", "false_alarms"):
        assert found[name] == pytest.approx(expected[name]), name
    with (result.folder / "distances.csv").open(newline="") as file:
        assert {row["image"] for row in csv.DictReader(file)} == set(names)


def test_labels_are_doubted_if_asked_for(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = finetune.evaluate(f"run={run}", "label_errors=2").folder
    with (folder / "images.csv").open(newline="") as file:
        assert all(0 < float(row["label_quality"]) < 1 for row in csv.DictReader(file))
    assert "the model contradicts" in capsys.readouterr().out


def test_all_files_are_written_to_the_output(run: Path, tmp_path: Path) -> None:
    before = listing(tmp_path)
    result = finetune.evaluate(f"run={run}", "output=scores")
    assert result.folder == Path("scores")
    assert json.loads(Path("scores/scores.json").read_text()) == result.scores
    assert {Path(name).parts[0] for name in listing(tmp_path).keys() - before.keys()} == {"scores"}


def test_the_splits_add_up_to_all_images(run: Path) -> None:
    result = {split: finetune.evaluate(f"run={run}", f"split={split}") for split in ("train", "val", "test", "all")}
    assert [int(result[split].matrix.sum()) // PIXELS for split in result] == [10, 3, 3, 16]
    assert torch.equal(result["train"].matrix + result["val"].matrix + result["test"].matrix, result["all"].matrix)
    assert [value.folder.name for value in result.values()] == ["train", "val", "test_2", "all"]


def test_an_unknown_split_is_refused(run: Path) -> None:
    with pytest.raises(ConfigError, match=r"split.*'?tets'?.* the data has test, val, train, all"):
        finetune.evaluate(f"run={run}", "split=tets")


def test_the_command_prints_the_table_and_the_score(
    run: Path, trained: TrainResult, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("evaluate", f"run={run}") == 0
    output = capsys.readouterr().out
    assert f"test/iou {trained.scores['iou']:.4f} over 3 images" in output
    assert all(name in output for name in ("ground", "wall", "sky", "mean"))


def test_another_folder_without_splits_is_evaluated_as_a_whole(run: Path, tmp_path: Path) -> None:
    others = draw_folder(tmp_path / "others", [f"other_{i}" for i in range(5)], size=(24, 30), seed=1)
    result = finetune.evaluate(f"run={run}", f"data.root={others}")
    assert result.folder == run / "evaluation" / "all"
    assert result.matrix.sum() == 5 * 24 * 30
    masks = finetune.load(run, "cpu").predict(others / "images")
    assert sorted(path.stem for path in masks) == [f"other_{i}" for i in range(5)]


def test_another_folder_with_splits_is_evaluated_on_its_test_images(run: Path, tmp_path: Path) -> None:
    for split, count in (("train", 2), ("val", 2), ("test", 3)):
        draw_folder(tmp_path / "others", [f"{split}/{split}_{i}" for i in range(count)])
    result = finetune.evaluate(f"run={run}", "data.root=others")
    assert result.folder.name == "test_2"
    assert result.matrix.sum() == 3 * PIXELS
    assert finetune.evaluate(f"run={run}", "data.root=others", "split=all").matrix.sum() == 7 * PIXELS


def test_the_confusion_matrix_is_counted_from_the_predictions(run: Path, photos: Path) -> None:
    matrix = torch.zeros(3, 3, dtype=torch.int64)
    for path, mask in finetune.load(run, "cpu").predict(photos / "images").items():
        truth = read_mask(photos / "masks" / path.name)
        for true, guess in zip(truth.flatten().tolist(), mask.flatten().tolist(), strict=True):
            matrix[true, guess] += 1
    assert torch.equal(finetune.evaluate(f"run={run}", f"data.root={photos}").matrix, matrix)


@pytest.mark.parametrize("declared", ["2", "[ground,wall,sky,sea]"])
def test_classes_that_the_model_does_not_have_are_refused(
    run: Path, photos: Path, capsys: pytest.CaptureFixture[str], declared: str
) -> None:
    before = listing(run)
    assert exit_code("evaluate", f"run={run}", f"data.root={photos}", f"data.classes={declared}") == 2
    output = capsys.readouterr().err
    assert "3 classes (ground, wall, sky)" in output
    assert f"declares {2 if declared == '2' else 4}" in output
    assert listing(run) == before


@pytest.mark.parametrize("declared", ["3", "[ground,wall,sky]"])
def test_the_classes_of_the_model_may_be_declared(run: Path, photos: Path, declared: str) -> None:
    assert finetune.evaluate(f"run={run}", f"data.root={photos}", f"data.classes={declared}").matrix.shape == (3, 3)


def test_a_model_folder_without_its_run_evaluates_other_images(
    trained: TrainResult, run: Path, photos: Path, tmp_path: Path
) -> None:
    alone = shutil.copytree(trained.folder / "model", tmp_path / "alone" / "shared" / "model")
    result = finetune.evaluate(f"run={alone}", f"data.root={photos}", "output=scores")
    assert torch.equal(result.matrix, finetune.evaluate(f"run={run}", f"data.root={photos}").matrix)


def test_a_model_folder_without_its_run_needs_a_data_root(
    trained: TrainResult, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = shutil.copytree(trained.folder / "model", tmp_path / "alone" / "shared" / "model")
    assert exit_code("evaluate", f"run={alone}") == 2
    assert "data.root is not set" in capsys.readouterr().err


def test_a_model_folder_without_its_run_keeps_the_ignored_label(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    photos = draw_folder(tmp_path / "photos", values=(0, 1, 7))
    overrides = [override for override in on_folder(photos) if not override.startswith("data.classes")]
    run = finetune.train(*overrides, "data.classes=2", "data.ignore_index=7", "output=run")
    alone = shutil.copytree(run.folder / "model", tmp_path / "alone" / "shared" / "model")
    own = finetune.evaluate("run=run", "split=all")
    assert torch.equal(finetune.evaluate(f"run={alone}", f"data.root={photos}", "output=scores").matrix, own.matrix)


def test_a_run_on_synthetic_images_is_evaluated_on_the_same_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = finetune.train(*SYNTHETIC, "output=run")
    assert finetune.evaluate("run=run").scores == run.scores
    assert finetune.evaluate("run=run", "data.count=40").matrix.sum() == 10 * 32 * 32


def test_a_run_on_synthetic_images_is_evaluated_on_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    finetune.train(*SYNTHETIC, "output=run")
    others = draw_folder(tmp_path / "others", values=(0, 1, 2, 3, 4))
    assert finetune.evaluate("run=run", f"data.root={others}").matrix.sum() == 12 * PIXELS
    assert exit_code("evaluate", "run=run", "data.root=nowhere") == 2


def test_a_model_whose_outputs_are_nan_has_no_scores(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = load_file(run / "model" / "model.safetensors")
    nan = {name: tensor * torch.nan if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    save_file(nan, run / "model.tmp")
    (run / "model.tmp").rename(run / "model" / "model.safetensors")
    assert exit_code("evaluate", f"run={run}") == 1
    assert "outputs are NaN or infinite for 3 test images, so there are no scores" in capsys.readouterr().err
    assert not (run / "evaluation" / "test_2").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.batch_size=largest", "data.batch_size=largest is searched by a training. Set a number of images."),
        (
            "data.cache=ram",
            "data.cache keeps images for later epochs, but an evaluation reads each once. Leave it out.",
        ),
        ("boundaries=1", "boundaries=1: expected true or false."),
        ("label_errors=-1", "label_errors=-1: expected a number of images, 0 for none."),
        ("data.batch_size=x", "data.batch_size=x: expected a whole number or auto."),
        ("data.batch_size=0", "batch_size=0: expected 1 or more."),
        ("+trainer.fast_dev_run=true", "trainer.fast_dev_run=True has no effect on an evaluation. Leave it out."),
        ("trainer.max_epochs=7", "trainer.max_epochs=7 has no effect on an evaluation. Leave it out."),
        (
            "+trainer.limit_test_batches=0",
            "trainer.limit_test_batches=0: expected a whole number of batches, 1 or more.",
        ),
        ("data.num_workers=-1", "num_workers=-1: expected 0 or more."),
        (
            "data.classes=2.5",
            "data.classes=2.5: expected a whole number or a list of names or a group of settings or null.",
        ),
        (
            "data.ignore_index=a",
            "data.ignore_index has a: expected a number, a color such as '#ff00ff', or '*' for all values not listed.",
        ),
    ],
)
def test_settings_of_the_wrong_type_are_refused(
    run: Path, override: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("evaluate", f"run={run}", override) == 2
    assert capsys.readouterr().err == f"error: {message}\n"


def test_loading_processes_are_used(run: Path, trained: TrainResult, monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    monkeypatch.setattr(SegmentationData, "test_dataloader", _noting(used, SegmentationData.test_dataloader))
    assert finetune.evaluate(f"run={run}", "data.num_workers=1").scores == trained.scores
    assert used == [1]


def _noting(used: list[int], original: Callable[[SegmentationData], Any]) -> Callable[[SegmentationData], Any]:
    def loader(self: SegmentationData) -> Any:
        used.append(self.num_workers)
        return original(self)

    return loader


def test_a_run_with_a_relative_split_file_is_evaluated_and_resumed_from_another_folder(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    for path in (home, elsewhere):
        path.mkdir()
    monkeypatch.chdir(home)
    names = [f"photo_{i:02d}" for i in range(16)]
    splits = ["test"] * 5 + ["val"] * 2 + ["train"] * 9
    lines = [f"{name},{split}" for name, split in zip(names, splits, strict=True)]
    Path("my.csv").write_text("\n".join(["image,split", *lines]))
    run = finetune.train(*on_folder(photos), "data.splits=my.csv", "output=run")
    monkeypatch.chdir(elsewhere)
    assert finetune.evaluate("run=../home/run").scores == run.scores
    assert finetune.evaluate("run=../home/run", f"data.root={photos}", "split=all").matrix.sum() == 16 * PIXELS
    assert finetune.train("resume=../home/run", "trainer.max_epochs=2").scores.keys() == run.scores.keys()


def test_a_run_whose_splits_repeat_names_is_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    draw_folder(tmp_path / "own", [f"{split}/{i:03d}" for split in ("train", "val", "test") for i in range(4)])
    run = finetune.train(*on_folder(tmp_path / "own"), "output=run")
    assert finetune.evaluate("run=run").scores == run.scores
    assert finetune.evaluate("run=run", "split=all").matrix.sum() == 12 * PIXELS


def test_all_splits_of_synthetic_images_are_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    finetune.train(*SYNTHETIC, "output=run")
    assert finetune.evaluate("run=run", "split=all").matrix.sum() == 12 * 32 * 32


def test_masks_with_other_classes_are_refused_with_advice_that_an_evaluation_can_follow(
    run: Path, tmp_path: Path
) -> None:
    for name, values in {"four": (0, 1, 2, 3), "five": (0, 1, 2, 3, 4)}.items():
        draw_folder(tmp_path / name, ["a"], values)
    with pytest.raises(
        ConfigError, match=r"Set data.ignore_index=3, or evaluate masks with the model's classes"
    ) as four:
        finetune.evaluate(f"run={run}", "data.root=four")
    with pytest.raises(ConfigError, match=r"Evaluate masks with the model's classes") as five:
        finetune.evaluate(f"run={run}", "data.root=five")
    assert "set data.classes" not in f"{four.value} {five.value}".lower()
    assert "ignore_index" not in str(five.value)  # only one label can be ignored


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a folder in which even root cannot write")
def test_an_output_that_cannot_be_made_is_refused_before_anything_is_done(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (("evaluate",), ("predict", "input=photos"), ("export",)):
        assert exit_code(*command, f"run={run}", "output=/proc/x/y") == 2
        assert "error: '/proc/x/y' cannot be written to: " in capsys.readouterr().err
    assert exit_code("train", *SYNTHETIC, "output=/proc/x") == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_refused(run: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("predict", f"run={run}", f"input={photos / 'images'}", "output=masks", "device=cuda") == 2
    assert "error: device=cuda cannot be used: " in capsys.readouterr().err


def test_slices_are_scored_by_what_the_images_have_in_common(run: Path, trained: TrainResult, tmp_path: Path) -> None:
    with (run / "splits.csv").open(newline="") as file:
        names = [row["image"] for row in csv.DictReader(file)]
    table = tmp_path / "weather.csv"
    table.write_text("image,weather\n" + "".join(f"{name},sun\n" for name in names))
    folder = finetune.evaluate(f"run={run}", f"slices={table}").folder
    with (folder / "slices.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["slice"], row["value"], row["images"]) == ("weather", "sun", "3")
    assert float(row["iou"]) == pytest.approx(trained.scores["iou"])
    folder = finetune.evaluate(f"run={run}", "slices=[brightness,foreground]", "split=train").folder
    with (folder / "slices.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sum(int(row["images"]) for row in rows) == 20
    assert [float(row["iou"]) for row in rows] == sorted(float(row["iou"]) for row in rows)
    with pytest.raises(ConfigError, match=r"slices=\['weather'\]: expected names"):
        finetune.evaluate(f"run={run}", "slices=[weather]")


def test_slices_without_a_value_for_any_image_are_said_and_end_nothing(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = read_table(finetune.evaluate(f"run={run}").folder / "images.csv")[0]["image"]
    (run / "sites.csv").write_text(f"image,site\n{name},\n")
    result = finetune.evaluate(f"run={run}", f"slices={run / 'sites.csv'}")
    assert result.scores["iou"] >= 0
    assert not (result.folder / "slices.csv").exists()
    assert "no image of this split has a value" in capsys.readouterr().out


def test_images_may_be_read_as_another_option_of_the_data_says(run: Path, tmp_path: Path) -> None:
    other = draw_folder(tmp_path / "other", seed=3)
    given = finetune.evaluate(f"run={run}", f"data.root={other}", "split=all")
    assert finetune.evaluate(f"run={run}", "data=folder", f"data.root={other}", "split=all").scores == given.scores
