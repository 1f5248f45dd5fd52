"""Scores of a run on its own images and on others."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch

import finetune
from finetune.commands.train import TrainResult
from finetune.config.errors import ConfigError
from tests.samples import DRAWN, draw_folder, exit_code, listing, on_folder

PIXELS = 32 * 40


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen pictures."""
    return draw_folder(tmp_path_factory.mktemp("photos"), [f"photo_{i:02d}" for i in range(16)])


@pytest.fixture(scope="module")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """A run on them: 10 to train, 3 to validate, 3 to test."""
    words = ("data.val=0.2", "data.test=0.2", "optimizer.lr=1e-2", "trainer.max_epochs=3")
    return finetune.train(*on_folder(photos), *words, f"output={tmp_path_factory.mktemp('run')}")


@pytest.fixture
def run(trained: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run, moved: its scores must not depend on where it lies or where one is."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(trained.folder, tmp_path / "moved"))


def written_matrix(folder: Path) -> torch.Tensor:
    with (folder / "confusion.csv").open(newline="") as file:
        return torch.tensor([[int(v) for v in row[1:]] for row in list(csv.reader(file))[1:]])


def test_the_own_test_split_gives_exactly_the_scores_of_the_training(run: Path, trained: TrainResult) -> None:
    found = finetune.evaluate(f"run={run}")
    assert found.scores == trained.scores
    assert torch.equal(found.matrix, written_matrix(run / "evaluation" / "test"))
    assert found.matrix.sum() == 3 * PIXELS


@pytest.mark.parametrize("size", [1, 2, 3])
def test_scores_do_not_depend_on_the_batch_size(run: Path, trained: TrainResult, size: int) -> None:
    assert finetune.evaluate(f"run={run}", f"data.batch_size={size}").scores == trained.scores


@pytest.mark.parametrize("part", ["checkpoints/best.ckpt", "model"])
def test_a_part_of_the_run_stands_for_it(run: Path, trained: TrainResult, part: str) -> None:
    assert finetune.evaluate(f"run={run / part}").scores == trained.scores


def test_tables_and_pictures_go_to_a_new_folder_every_time(run: Path) -> None:
    before = listing(run)
    folders = [finetune.evaluate(f"run={run}").folder for _ in range(2)]
    assert folders == [run / "evaluation" / "test_2", run / "evaluation" / "test_3"]
    after = listing(run)
    names = ("", "/classes.csv", "/classes.png", "/confusion.csv", "/confusion.png", "/scores.json")
    assert after.keys() - before.keys() == {f"evaluation/test_{n}{name}" for n in (2, 3) for name in names}
    assert {name: after[name] for name in before} == before


def test_the_output_can_be_chosen_and_nothing_goes_elsewhere(run: Path, tmp_path: Path) -> None:
    before = listing(tmp_path)
    found = finetune.evaluate(f"run={run}", "output=scores")
    assert found.folder == Path("scores")
    assert json.loads(Path("scores/scores.json").read_text()) == found.scores
    assert {Path(name).parts[0] for name in listing(tmp_path).keys() - before.keys()} == {"scores"}


def test_every_split_can_be_chosen_and_together_they_are_all(run: Path) -> None:
    found = {split: finetune.evaluate(f"run={run}", f"split={split}") for split in ("train", "val", "test", "all")}
    assert [int(found[split].matrix.sum()) // PIXELS for split in found] == [10, 3, 3, 16]
    assert torch.equal(found["train"].matrix + found["val"].matrix + found["test"].matrix, found["all"].matrix)
    assert [value.folder.name for value in found.values()] == ["train", "val", "test_2", "all"]


def test_a_split_that_is_not_there_is_refused(run: Path) -> None:
    with pytest.raises(ConfigError, match="there is no split 'tets'; the data has test, val, train, all"):
        finetune.evaluate(f"run={run}", "split=tets")


def test_the_command_prints_the_table_and_the_score(
    run: Path, trained: TrainResult, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("evaluate", f"run={run}") == 0
    said = capsys.readouterr().out
    assert f"test/iou {trained.scores['iou']:.4f} over 3 images" in said
    assert all(name in said for name in ("ground", "wall", "sky", "mean"))


def test_another_folder_without_a_split_is_taken_whole(run: Path, tmp_path: Path) -> None:
    others = draw_folder(tmp_path / "others", [f"other_{i}" for i in range(5)], size=(24, 30), seed=1)
    found = finetune.evaluate(f"run={run}", f"data.root={others}")
    assert found.folder == run / "evaluation" / "all"
    assert found.matrix.sum() == 5 * 24 * 30
    masks = finetune.load(run, "cpu").predict(others / "images")
    assert sorted(path.stem for path in masks) == [f"other_{i}" for i in range(5)]


def test_another_folder_with_a_split_is_tested_on_its_test_images(run: Path, tmp_path: Path) -> None:
    for split, count in (("train", 2), ("val", 2), ("test", 3)):
        draw_folder(tmp_path / "others", [f"{split}/{split}_{i}" for i in range(count)])
    found = finetune.evaluate(f"run={run}", "data.root=others")
    assert found.folder.name == "test_2"
    assert found.matrix.sum() == 3 * PIXELS
    assert finetune.evaluate(f"run={run}", "data.root=others", "split=all").matrix.sum() == 7 * PIXELS


def test_the_confusion_matrix_is_counted_from_the_predictions(run: Path, photos: Path) -> None:
    matrix = torch.zeros(3, 3, dtype=torch.int64)
    for path, mask in finetune.load(run, "cpu").predict(photos / "images").items():
        truth = finetune_mask(photos / "masks" / path.name)
        for true, guess in zip(truth.flatten().tolist(), mask.flatten().tolist(), strict=True):
            matrix[true, guess] += 1
    assert torch.equal(finetune.evaluate(f"run={run}", f"data.root={photos}").matrix, matrix)


def finetune_mask(path: Path) -> torch.Tensor:
    from finetune.data import read_mask

    return read_mask(path)


@pytest.mark.parametrize("declared", ["2", "[ground,wall,sky,sea]"])
def test_other_classes_than_the_models_are_refused_with_both_counts(
    run: Path, photos: Path, capsys: pytest.CaptureFixture[str], declared: str
) -> None:
    before = listing(run)
    assert exit_code("evaluate", f"run={run}", f"data.root={photos}", f"data.classes={declared}") == 2
    said = capsys.readouterr().err
    assert "the model has 3 classes (ground, wall, sky)" in said
    assert f"declares {2 if declared == '2' else 4}" in said
    assert listing(run) == before


@pytest.mark.parametrize("declared", ["3", "[ground,wall,sky]"])
def test_the_models_own_classes_may_be_declared(run: Path, photos: Path, declared: str) -> None:
    assert finetune.evaluate(f"run={run}", f"data.root={photos}", f"data.classes={declared}").matrix.shape == (3, 3)


def test_a_model_folder_alone_is_enough_for_other_images(
    trained: TrainResult, run: Path, photos: Path, tmp_path: Path
) -> None:
    alone = shutil.copytree(trained.folder / "model", tmp_path / "alone" / "shared" / "model")
    found = finetune.evaluate(f"run={alone}", f"data.root={photos}", "output=scores")
    assert torch.equal(found.matrix, finetune.evaluate(f"run={run}", f"data.root={photos}").matrix)


def test_a_model_folder_alone_needs_to_be_told_of_images(
    trained: TrainResult, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = shutil.copytree(trained.folder / "model", tmp_path / "alone" / "shared" / "model")
    assert exit_code("evaluate", f"run={alone}") == 2
    assert "data.root is not set" in capsys.readouterr().err


def test_a_model_folder_alone_remembers_the_label_to_ignore(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    photos = draw_folder(tmp_path / "photos", values=(0, 1, 7))
    words = [word for word in on_folder(photos) if not word.startswith("data.classes")]
    run = finetune.train(*words, "data.classes=2", "data.ignore_index=7", "output=run")
    alone = shutil.copytree(run.folder / "model", tmp_path / "alone" / "shared" / "model")
    own = finetune.evaluate("run=run", "split=all")
    assert torch.equal(finetune.evaluate(f"run={alone}", f"data.root={photos}", "output=scores").matrix, own.matrix)


def test_a_run_on_synthetic_images_is_scored_on_the_same_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = finetune.train(*DRAWN, "output=run")
    assert finetune.evaluate("run=run").scores == run.scores
    assert finetune.evaluate("run=run", "data.count=40").matrix.sum() == 10 * 32 * 32


def test_a_run_on_synthetic_images_can_be_scored_on_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    finetune.train(*DRAWN, "output=run")
    others = draw_folder(tmp_path / "others", values=(0, 1, 2, 3, 4))
    assert finetune.evaluate("run=run", f"data.root={others}").matrix.sum() == 12 * PIXELS
    assert exit_code("evaluate", "run=run", "data.root=nowhere") == 2
