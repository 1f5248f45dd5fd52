"""What a training leaves, and that it is the same every time."""

import csv
import json
import logging
import math
from pathlib import Path

import pytest
import torch
import yaml
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

import finetune
from finetune.builders.data import training_data
from finetune.builders.model import build_model
from finetune.commands.train import TrainResult
from finetune.config.compose import load_config
from tests.samples import DRAWN, draw_folder, exit_code, listing, on_folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with photos in it."""
    home = tmp_path_factory.mktemp("home")
    draw_folder(home / "photos")
    return home


@pytest.fixture(scope="module")
def run(home: Path) -> TrainResult:
    """Two epochs on photos, with the run folder where it is by default."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        run = finetune.train(*on_folder(Path("photos")), "trainer.max_epochs=2", "name=pets", "optimizer.lr=1e-2")
        return TrainResult(home / run.folder, home / run.best, run.score, run.scores)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """One epoch on synthetic images."""
    return finetune.train(*DRAWN, f"output={tmp_path_factory.mktemp('drawn')}")


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_everything_in_its_folder_and_nothing_elsewhere(home: Path, run: TrainResult) -> None:
    assert run.folder.parent == home / "outputs" / "pets"
    assert [path.name for path in home.iterdir() if path.name != "photos"] == ["outputs"]
    assert [path.name for path in run.folder.parent.iterdir()] == [run.folder.name]
    assert sorted(name for name in listing(run.folder) if (run.folder / name).is_file()) == [
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "checkpoints/last_2.ckpt",
        "config.yaml",
        "env.json",
        "evaluation/test/classes.csv",
        "evaluation/test/classes.png",
        "evaluation/test/confusion.csv",
        "evaluation/test/confusion.png",
        "evaluation/test/scores.json",
        "fingerprints.csv",
        "metrics.csv",
        "model/README.md",
        "model/config.json",
        "model/model.safetensors",
        "plots/iou.png",
        "plots/loss.png",
        "plots/preview/epoch_001.png",
        "plots/preview/epoch_002.png",
        "plots/tuning.png",
        "splits.csv",
        "train.log",
    ]


def test_every_picture_can_be_opened(run: TrainResult) -> None:
    pictures = sorted(run.folder.rglob("*.png"))
    assert len(pictures) == 7
    for path in pictures:
        with Image.open(path) as picture:
            picture.load()
            assert min(picture.size) >= 100


def test_the_config_is_resolved_and_says_where_everything_is(home: Path, run: TrainResult) -> None:
    text = (run.folder / "config.yaml").read_text()
    config = yaml.safe_load(text)
    assert "${" not in text
    assert config["data"]["root"] == str((home / "photos").resolve())
    assert str(home / config["output"]) == str(run.folder)
    assert config["optimizer"]["lr"] == 0.01


def test_the_environment_tells_how_to_do_it_again(run: TrainResult) -> None:
    found = json.loads((run.folder / "env.json").read_text())
    assert found["seed"] == 0
    assert torch.__version__.startswith(found["versions"]["torch"].split("+")[0])
    assert {"command", "git", "python", "platform", "cpus", "threads", "gpus"} <= found.keys()


def test_the_metrics_have_one_row_an_epoch(run: TrainResult) -> None:
    found = rows(run.folder / "metrics.csv")
    assert [row["epoch"] for row in found] == ["1", "2"]
    assert [row["step"] for row in found] == ["2", "4"]
    assert all(math.isfinite(float(row[key])) for row in found for key in ("train/loss", "val/loss", "val/iou"))
    assert run.score == pytest.approx(max(float(row["val/iou"]) for row in found), abs=1e-6)


def test_the_split_is_written(run: TrainResult) -> None:
    found = rows(run.folder / "splits.csv")
    assert sorted(row["image"] for row in found) == [f"photo_{i:02d}" for i in range(12)]
    assert sorted(row["split"] for row in found) == ["test"] * 2 + ["train"] * 8 + ["val"] * 2


def test_synthetic_images_leave_their_split_but_no_fingerprints(drawn: TrainResult) -> None:
    assert "train_00000,train\n" in (drawn.folder / "splits.csv").read_text()
    assert not (drawn.folder / "fingerprints.csv").exists()


def test_the_scores_are_those_of_the_written_matrix(run: TrainResult) -> None:
    scores = json.loads((run.folder / "evaluation" / "test" / "scores.json").read_text())
    assert scores == run.scores
    table = [[int(v) for v in list(row.values())[1:]] for row in rows(run.folder / "evaluation/test/confusion.csv")]
    matrix = torch.tensor(table, dtype=torch.float64)
    assert matrix.sum() == 2 * 32 * 40
    hits = matrix.diagonal()
    iou = hits / (matrix.sum(0) + matrix.sum(1) - hits)
    assert scores["iou"] == pytest.approx(float(iou.mean()))
    assert scores["pixel_accuracy"] == pytest.approx(float(hits.sum() / matrix.sum()))
    by_class = rows(run.folder / "evaluation" / "test" / "classes.csv")
    assert [row["class"] for row in by_class] == ["ground", "wall", "sky"]
    assert [float(row["iou"]) for row in by_class] == pytest.approx(iou.tolist())


def test_the_log_ends_with_the_score_and_what_to_type_next(run: TrainResult) -> None:
    lines = (run.folder / "train.log").read_text().splitlines()
    told = "\n".join(lines[-12:])
    assert f"test/iou {run.scores['iou']:.4f}" in told
    assert f"best validation score {run.score:.4f}" in told
    assert f"finetune predict run=outputs/pets/{run.folder.name} input=PHOTOS output=masks" in told
    assert f"finetune evaluate run=outputs/pets/{run.folder.name} data.root=OTHER_FOLDER" in told
    assert "confusion.png" in told
    assert any("8 train, 2 val and 2 test images, 3 classes: ground, wall, sky" in line for line in lines)


def test_the_commands_that_are_told_work(
    home: Path, run: TrainResult, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(home)
    log = (run.folder / "train.log").read_text()
    (words,) = [line.split("finetune ")[1].split() for line in log.splitlines() if "finetune predict" in line]
    told = {"input=PHOTOS": "input=photos/images", "output=masks": f"output={tmp_path / 'masks'}"}
    assert exit_code(*(told.get(word, word) for word in words)) == 0
    assert len(list((tmp_path / "masks" / "masks").iterdir())) == 12


def test_a_training_learns(folder: Path, home: Path) -> None:
    run = finetune.train(*on_folder(home / "photos"), "trainer.max_epochs=8", "optimizer.lr=3e-3", "augment=none")
    losses = [float(row["train/loss"]) for row in rows(run.folder / "metrics.csv")]
    assert len(losses) == 8
    assert losses[-1] < 0.8 * losses[0]


def test_checkpoints_hold_plain_data(run: TrainResult) -> None:
    for name in ("last", "best"):
        content = torch.load(run.folder / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert content["model_config"]["backbone"] == "test_resnet.r160_in1k"
        assert content["epoch"] in (0, 1)


def test_the_best_weights_are_the_ones_that_are_kept_not_the_last(folder: Path, home: Path) -> None:
    words = (*on_folder(home / "photos"), "trainer.max_epochs=3", "optimizer.lr=1e-2", "tuning=full")
    run = finetune.train(*words, "checkpoint.monitor=val/loss", "checkpoint.mode=max")
    best, last = (torch.load(run.folder / "checkpoints" / f"{name}.ckpt")["state_dict"] for name in ("best", "last"))
    assert not same(best, last)  # or this test would show nothing
    assert run.best == run.folder / "checkpoints" / "best.ckpt"
    assert same({k.removeprefix("model."): v for k, v in best.items() if k.startswith("model.")}, weights(run.folder))
    assert finetune.evaluate(f"run={run.best}").scores == run.scores


def test_the_same_command_twice_gives_the_same_weights_bit_for_bit(folder: Path, run: TrainResult, home: Path) -> None:
    words = (*on_folder(home / "photos"), "trainer.max_epochs=2", "optimizer.lr=1e-2")
    again = finetune.train(*words, "output=again")
    assert same(weights(run.folder), weights(again.folder))
    assert run.scores == again.scores
    other = finetune.train(*words, "output=other", "seed=1", f"data.splits={run.folder / 'splits.csv'}")
    assert not same(weights(run.folder), weights(other.folder))


def test_the_written_config_trains_the_same_weights_again(folder: Path, run: TrainResult) -> None:
    config = OmegaConf.load(run.folder / "config.yaml")
    config.output = str(folder / "again")
    assert same(weights(run.folder), weights(finetune.train(config).folder))


def test_a_composed_config_trains_as_its_words_do(folder: Path, drawn: TrainResult) -> None:
    composed = finetune.train(finetune.compose(*DRAWN, "output=composed"))
    assert same(weights(drawn.folder), weights(composed.folder))
    assert (drawn.score, drawn.scores) == (composed.score, composed.scores)


def test_two_runs_of_one_process_have_their_own_logs(folder: Path, drawn: TrainResult) -> None:
    before = (drawn.folder / "train.log").read_bytes()
    second = finetune.train(*DRAWN, "output=second")
    assert (drawn.folder / "train.log").read_bytes() == before
    assert len(before.splitlines()) == len((second.folder / "train.log").read_bytes().splitlines())


def test_a_run_that_failed_does_not_write_to_the_next_ones_log(folder: Path) -> None:
    with pytest.raises(RuntimeError, match="the disk is full"):
        finetune.train(*DRAWN, "output=failed", "+callbacks.bad._target_=tests.samples.Breaks")
    before = (folder / "failed" / "train.log").read_bytes()
    finetune.train(*DRAWN, "output=next")
    assert (folder / "failed" / "train.log").read_bytes() == before
    handlers = logging.getLogger("finetune").handlers
    assert not any(isinstance(handler, logging.FileHandler) for handler in handlers)


def test_a_run_is_loaded_by_folder_model_or_checkpoint_alike(home: Path, run: TrainResult) -> None:
    sources = (run.folder, run.best, run.folder / "model", str(run.folder))
    masks = [finetune.load(source, "cpu").predict(home / "photos" / "images") for source in sources]
    assert len(masks[0]) == 12
    assert all(mask.shape == (32, 40) for mask in masks[0].values())
    for other in masks[1:]:
        assert other.keys() == masks[0].keys()
        assert all((other[path] == masks[0][path]).all() for path in other)


def test_a_run_that_was_cut_off_is_loaded_from_its_best_checkpoint(home: Path, run: TrainResult, folder: Path) -> None:
    checkpoint = folder / "cut" / "checkpoints" / "best.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(run.best.read_bytes())
    image = home / "photos" / "images" / "photo_00.png"
    cut, whole = (finetune.load(source, "cpu").predict(image)[image] for source in (folder / "cut", run.folder))
    assert (cut == whole).all()


def test_a_frozen_backbone_ends_as_it_began(folder: Path) -> None:
    words = (*DRAWN, "tuning=frozen", "optimizer.lr=1e-2")
    ended = weights(finetune.train(*words).folder)
    config = load_config(words, "train")
    began = build_model(config, training_data(config).classes).state_dict()
    backbone = [key for key in began if key.startswith("backbone.")]
    assert any("running_mean" in key for key in backbone)
    assert same({key: began[key] for key in backbone}, {key: ended[key] for key in backbone})
    trained = [key for key in began if key.startswith("decoder.") and key.endswith("weight")]
    assert not any(torch.equal(began[key], ended[key]) for key in trained)


def test_a_tuned_backbone_does_not(drawn: TrainResult) -> None:
    ended = weights(drawn.folder)
    config = load_config(DRAWN, "train")
    began = build_model(config, training_data(config).classes).state_dict()
    assert not torch.equal(began["backbone.model.conv1.0.weight"], ended["backbone.model.conv1.0.weight"])


def test_without_a_test_split_the_validation_images_are_scored(folder: Path, home: Path) -> None:
    run = finetune.train(*on_folder(home / "photos"), "data.test=0")
    assert (run.folder / "evaluation" / "val" / "scores.json").is_file()
    assert not (run.folder / "evaluation" / "test").exists()
    assert run.score == pytest.approx(run.scores["iou"], abs=1e-6)


def test_a_folder_that_is_split_already_keeps_its_split(folder: Path) -> None:
    for split in ("train", "val"):
        draw_folder(folder / "photos", [f"{split}/{split}_{i}" for i in range(4)])
    run = finetune.train(*on_folder(folder / "photos"))
    assert {(row["image"].split("_")[0], row["split"]) for row in rows(run.folder / "splits.csv")} == {
        ("train", "train"),
        ("val", "val"),
    }


def test_a_run_without_callbacks_still_leaves_its_model(folder: Path) -> None:
    words = [f"~callbacks.{name}" for name in ("iou", "early_stopping", "checkpoint", "preview", "progress")]
    run = finetune.train(*DRAWN, *words)
    assert run.best.name == "last.ckpt"
    assert (run.folder / "model" / "model.safetensors").is_file()


def test_a_run_without_its_table_of_metrics_draws_no_curves(folder: Path) -> None:
    run = finetune.train(*DRAWN, "~callbacks.metrics_csv")
    assert (run.folder / "model" / "model.safetensors").is_file()
    assert not (run.folder / "plots" / "loss.png").exists()


def test_the_log_of_a_failed_run_tells_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("finetune.commands.train.write_curves", lambda folder: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        finetune.train(*DRAWN, "output=run")
    assert "failed: ZeroDivisionError" in (tmp_path / "run" / "train.log").read_text()


STALLS = "trainer.max_epochs=9"  # each of four takes two epochs to show


@pytest.mark.parametrize(
    "words",
    [
        ("tuning=frozen", "tuning.norms=adapt"),
        ("tuning=head_then_full", "schedule=one_cycle"),
        ("tuning=partial", "tuning.last=1", "schedule=plateau"),
        ("tuning=gradual", "tuning.warmup=2", "tuning.norms=eval"),
        (
            "tuning=gradual",
            "tuning.unfreeze_at=0",
            "tuning.unfreeze_stagger=plateau",
            "tuning.plateau.patience=1",
            STALLS,
        ),
        ("tuning=discriminative", "tuning.l2_sp=0.1", "tuning.l1=1e-6"),
        ("tuning=layer_decay", "tuning.unfreeze_at=1"),
        ("tuning=norm_only", "schedule=warmup_stable_decay"),
    ],
    ids=lambda words: words[0].partition("=")[2],
)
def test_every_tuning_plan_trains_from_the_command_line(folder: Path, words: tuple[str, ...]) -> None:
    assert exit_code("train", *DRAWN, "trainer.max_epochs=3", *words, "output=run") == 0
    assert (folder / "run" / "plots" / "tuning.png").is_file()
    assert (folder / "run" / "model" / "model.safetensors").is_file()


def test_a_dry_run_does_a_batch_of_everything_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run = finetune.train(*DRAWN, "trainer.max_epochs=3", "+trainer.fast_dev_run=true")
    assert list(tmp_path.iterdir()) == []
    assert "test/iou" in {f"test/{name}" for name in run.scores}
    said = capsys.readouterr().out
    assert "trainer.fast_dev_run=true: a batch was trained on, validated and tested, and nothing was kept" in said
    assert "finetune predict" not in said
