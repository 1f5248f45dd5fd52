"""The files of a training, and that the same command gives the same weights."""

import csv
import json
import logging
import math
from pathlib import Path

import pytest
import torch
import yaml
from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch import Tensor

import finetune
from finetune.builders.data import training_data
from finetune.builders.model import build_model
from finetune.commands.train import TrainResult
from finetune.config.compose import load_config
from finetune.config.errors import ConfigError
from tests.samples import SYNTHETIC, draw_folder, exit_code, listing, on_folder

pytestmark = pytest.mark.usefixtures("without_figures")


@pytest.fixture(autouse=True)
def _without_evaluation_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save the time of figures in all trainings but those of the module, which are made before this."""
    for name in ("confusion_figure", "class_bars_figure"):
        monkeypatch.setattr(f"finetune.reports.evaluation.{name}", lambda *arguments: Path(arguments[-1]).touch())
    monkeypatch.setattr("finetune.reports.evaluation.curves_figure", lambda rows, folder: (folder / "iou.png").touch())


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a working folder with images and masks."""
    home = tmp_path_factory.mktemp("home")
    draw_folder(home / "photos")
    return home


@pytest.fixture(scope="module")
def run(home: Path) -> TrainResult:
    """Two epochs on a folder of images, in the default run folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        run = finetune.train(*on_folder(Path("photos")), "trainer.max_epochs=2", "name=pets", "optimizer.lr=1e-2")
        return TrainResult(home / run.folder, home / run.best, run.score, run.scores)


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """One epoch on synthetic images."""
    return finetune.train(*SYNTHETIC, f"output={tmp_path_factory.mktemp('synthetic')}")


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_writes_all_its_files_into_its_folder(home: Path, run: TrainResult) -> None:
    assert run.folder.parent == home / "outputs" / "pets"
    assert [path.name for path in home.iterdir() if path.name != "photos"] == ["outputs"]
    assert [path.name for path in run.folder.parent.iterdir()] == [run.folder.name]
    assert sorted(name for name in listing(run.folder) if (run.folder / name).is_file()) == [
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "checkpoints/last_2.ckpt",
        "config.yaml",
        "data.json",
        "env.json",
        "evaluation/test/best.png",
        "evaluation/test/calibration.json",
        "evaluation/test/calibration.png",
        "evaluation/test/classes.csv",
        "evaluation/test/classes.png",
        "evaluation/test/confusion.csv",
        "evaluation/test/confusion.png",
        "evaluation/test/images.csv",
        "evaluation/test/interval.json",
        "evaluation/test/overlaps.npz",
        "evaluation/test/scores.json",
        "evaluation/test/worst.png",
        "fingerprints.csv",
        "metrics.csv",
        "model/README.md",
        "model/config.json",
        "model/model.safetensors",
        "plots/augmentation.png",
        "plots/iou.png",
        "plots/loss.png",
        "plots/preview/step_000002.png",
        "plots/preview/step_000004.png",
        "plots/tuning.csv",
        "plots/tuning.png",
        "report.html",
        "splits.csv",
        "train.log",
    ]


def test_the_model_says_how_the_masks_of_its_training_were_read(run: TrainResult) -> None:
    facts = json.loads((run.folder / "model" / "config.json").read_text())["data"]
    assert facts == {"ignore_index": 255, "mask_values": None, "snap": False, "value_range": None}


def test_the_stored_config_is_resolved_with_absolute_data_paths(home: Path, run: TrainResult) -> None:
    text = (run.folder / "config.yaml").read_text()
    config = yaml.safe_load(text)
    assert "${" not in text
    assert config["data"]["root"] == str((home / "photos").resolve())
    assert str(home / config["output"]) == str(run.folder)
    assert config["optimizer"]["lr"] == 0.01


def test_the_stored_environment_has_what_a_repetition_needs(run: TrainResult) -> None:
    environment = json.loads((run.folder / "env.json").read_text())
    assert environment["seed"] == 0
    assert torch.__version__.startswith(environment["versions"]["torch"].split("+")[0])
    assert {"command", "git", "python", "platform", "cpus", "threads", "gpus"} <= environment.keys()


def test_the_metrics_have_one_row_per_epoch(run: TrainResult) -> None:
    metrics = rows(run.folder / "metrics.csv")
    assert [row["epoch"] for row in metrics] == ["1", "2"]
    assert [row["step"] for row in metrics] == ["2", "4"]
    assert all(math.isfinite(float(row[key])) for row in metrics for key in ("train/loss", "val/loss", "val/iou"))
    assert run.score == pytest.approx(max(float(row["val/iou"]) for row in metrics), abs=1e-6)


def test_the_split_of_each_image_is_stored(run: TrainResult) -> None:
    splits = rows(run.folder / "splits.csv")
    assert sorted(row["image"] for row in splits) == [f"photo_{i:02d}" for i in range(12)]
    assert sorted(row["split"] for row in splits) == ["test"] * 2 + ["train"] * 8 + ["val"] * 2


def test_synthetic_images_have_a_stored_split_but_no_fingerprints(synthetic: TrainResult) -> None:
    assert "train_00000,train\n" in (synthetic.folder / "splits.csv").read_text()
    assert not (synthetic.folder / "fingerprints.csv").exists()


def test_the_scores_are_those_of_the_stored_confusion_matrix(run: TrainResult) -> None:
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


def test_the_log_ends_with_the_scores_and_the_next_commands(run: TrainResult) -> None:
    lines = (run.folder / "train.log").read_text().splitlines()
    ending = "\n".join(lines[-12:])
    assert f"test/iou {run.scores['iou']:.4f}" in ending
    assert f"best validation score {run.score:.4f}" in ending
    assert f"finetune predict run=outputs/pets/{run.folder.name} input=PHOTOS output=masks" in ending
    assert f"finetune evaluate run=outputs/pets/{run.folder.name} data.root=OTHER_FOLDER" in ending
    assert "confusion.png" in ending
    assert any("8 train, 2 val and 2 test images, 3 classes: ground, wall, sky" in line for line in lines)


def test_the_next_commands_in_the_log_work(
    home: Path, run: TrainResult, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(home)
    log = (run.folder / "train.log").read_text()
    (arguments,) = [line.split("finetune ")[1].split() for line in log.splitlines() if "finetune predict" in line]
    paths = {"input=PHOTOS": "input=photos/images", "output=masks": f"output={tmp_path / 'masks'}"}
    assert exit_code(*(paths.get(argument, argument) for argument in arguments)) == 0
    assert len(list((tmp_path / "masks" / "masks").iterdir())) == 12


def test_the_training_loss_falls(folder: Path, home: Path) -> None:
    run = finetune.train(*on_folder(home / "photos"), "trainer.max_epochs=8", "optimizer.lr=3e-3", "augment=none")
    losses = [float(row["train/loss"]) for row in rows(run.folder / "metrics.csv")]
    assert len(losses) == 8
    assert losses[-1] < 0.8 * losses[0]


def test_checkpoints_hold_plain_data(run: TrainResult) -> None:
    for name in ("last", "best"):
        content = torch.load(run.folder / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert content["model_config"]["backbone"] == "test_resnet.r160_in1k"
        assert content["epoch"] in (0, 1)


def test_the_model_has_the_best_weights_not_the_last(folder: Path, home: Path) -> None:
    overrides = (*on_folder(home / "photos"), "trainer.max_epochs=3", "optimizer.lr=1e-2", "tuning=full")
    run = finetune.train(*overrides, "checkpoint.monitor=val/loss")
    best, last = (torch.load(run.folder / "checkpoints" / f"{name}.ckpt")["state_dict"] for name in ("best", "last"))
    assert not same(best, last)  # or this test would prove nothing
    assert run.best == run.folder / "checkpoints" / "best.ckpt"
    assert same({k.removeprefix("model."): v for k, v in best.items() if k.startswith("model.")}, weights(run.folder))
    assert finetune.evaluate(f"run={run.best}").scores == run.scores


def test_the_same_command_twice_gives_identical_weights(folder: Path, run: TrainResult, home: Path) -> None:
    overrides = (*on_folder(home / "photos"), "trainer.max_epochs=2", "optimizer.lr=1e-2")
    again = finetune.train(*overrides, "output=again")
    assert same(weights(run.folder), weights(again.folder))
    assert run.scores == again.scores
    other = finetune.train(*overrides, "output=other", "seed=1", f"data.splits={run.folder / 'splits.csv'}")
    assert not same(weights(run.folder), weights(other.folder))


def test_the_stored_config_trains_the_same_weights_again(folder: Path, run: TrainResult) -> None:
    config = OmegaConf.load(run.folder / "config.yaml")
    config.output = str(folder / "again")
    assert same(weights(run.folder), weights(finetune.train(config).folder))


def test_a_composed_config_trains_as_its_overrides_do(folder: Path, synthetic: TrainResult) -> None:
    composed = finetune.train(finetune.compose(*SYNTHETIC, "output=composed"))
    assert same(weights(synthetic.folder), weights(composed.folder))
    assert (synthetic.score, synthetic.scores) == (composed.score, composed.scores)


def test_two_runs_in_one_process_have_separate_logs(folder: Path, synthetic: TrainResult) -> None:
    before = (synthetic.folder / "train.log").read_bytes()
    second = finetune.train(*SYNTHETIC, "output=second")
    assert (synthetic.folder / "train.log").read_bytes() == before
    assert len(before.splitlines()) == len((second.folder / "train.log").read_bytes().splitlines())


def test_a_failed_run_closes_its_log(folder: Path) -> None:
    with pytest.raises(RuntimeError, match="the disk is full"):
        finetune.train(*SYNTHETIC, "output=failed", "+callbacks.bad._target_=tests.samples.Breaks")
    before = (folder / "failed" / "train.log").read_bytes()
    finetune.train(*SYNTHETIC, "output=next")
    assert (folder / "failed" / "train.log").read_bytes() == before
    handlers = logging.getLogger("finetune").handlers
    assert not any(isinstance(handler, logging.FileHandler) for handler in handlers)


def test_a_run_folder_a_model_folder_and_a_checkpoint_load_the_same_model(home: Path, run: TrainResult) -> None:
    sources = (run.folder, run.best, run.folder / "model", str(run.folder))
    masks = [finetune.load(source, "cpu").predict(home / "photos" / "images") for source in sources]
    assert len(masks[0]) == 12
    assert all(mask.shape == (32, 40) for mask in masks[0].values())
    for other in masks[1:]:
        assert other.keys() == masks[0].keys()
        assert all((other[path] == masks[0][path]).all() for path in other)


def test_an_unfinished_run_is_loaded_from_its_best_checkpoint(home: Path, run: TrainResult, folder: Path) -> None:
    checkpoint = folder / "unfinished" / "checkpoints" / "best.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(run.best.read_bytes())
    image = home / "photos" / "images" / "photo_00.png"
    sources = (folder / "unfinished", run.folder)
    unfinished, finished = (finetune.load(source, "cpu").predict(image)[image] for source in sources)
    assert (unfinished == finished).all()


def test_a_frozen_backbone_keeps_its_weights_and_statistics(folder: Path) -> None:
    overrides = (*SYNTHETIC, "tuning=frozen", "optimizer.lr=1e-2")
    after = weights(finetune.train(*overrides).folder)
    config = load_config(overrides, "train")
    before = build_model(config, training_data(config).classes).state_dict()
    backbone = [key for key in before if key.startswith("backbone.")]
    assert any("running_mean" in key for key in backbone)
    assert same({key: before[key] for key in backbone}, {key: after[key] for key in backbone})
    trained = [key for key in before if key.startswith("decoder.") and key.endswith("weight")]
    assert not any(torch.equal(before[key], after[key]) for key in trained)


def test_a_trained_backbone_changes_its_weights(synthetic: TrainResult) -> None:
    after = weights(synthetic.folder)
    config = load_config(SYNTHETIC, "train")
    before = build_model(config, training_data(config).classes).state_dict()
    assert not torch.equal(before["backbone.model.conv1.0.weight"], after["backbone.model.conv1.0.weight"])


def test_without_a_test_split_the_validation_split_is_scored(folder: Path, home: Path) -> None:
    run = finetune.train(*on_folder(home / "photos"), "data.test=0")
    assert (run.folder / "evaluation" / "val" / "scores.json").is_file()
    assert not (run.folder / "evaluation" / "test").exists()
    assert run.score == pytest.approx(run.scores["iou"], abs=1e-6)


def test_a_folder_with_splits_keeps_its_splits(folder: Path) -> None:
    for split in ("train", "val"):
        draw_folder(folder / "photos", [f"{split}/{split}_{i}" for i in range(4)])
    run = finetune.train(*on_folder(folder / "photos"))
    assert {(row["image"].split("_")[0], row["split"]) for row in rows(run.folder / "splits.csv")} == {
        ("train", "train"),
        ("val", "val"),
    }


def test_a_run_without_callbacks_still_saves_its_model(folder: Path) -> None:
    overrides = [f"~callbacks.{name}" for name in ("iou", "early_stopping", "checkpoint", "preview", "progress")]
    run = finetune.train(*SYNTHETIC, *overrides)
    assert run.best.name == "last.ckpt"
    assert (run.folder / "model" / "model.safetensors").is_file()


def test_a_run_without_metrics_csv_draws_no_curves(folder: Path) -> None:
    run = finetune.train(*SYNTHETIC, "~callbacks.metrics_csv")
    assert (run.folder / "model" / "model.safetensors").is_file()
    assert not (run.folder / "plots" / "loss.png").exists()


def test_the_log_of_a_failed_run_names_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("finetune.commands.train.write_curves", lambda folder: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        finetune.train(*SYNTHETIC, "output=run")
    assert "failed: ZeroDivisionError" in (tmp_path / "run" / "train.log").read_text()


FOUR_PLATEAUS = "trainer.max_epochs=9"  # each takes two epochs to detect


@pytest.mark.parametrize(
    "overrides",
    [
        ("tuning=frozen", "tuning.norms=adapt"),
        ("tuning=head_then_full", "schedule=one_cycle"),
        pytest.param(("tuning=partial", "tuning.last=1", "schedule=plateau"), marks=pytest.mark.slow),
        pytest.param(("tuning=gradual", "tuning.warmup=2", "tuning.norms=eval"), marks=pytest.mark.slow),
        (
            "tuning=gradual",
            "tuning.unfreeze_at=0",
            "tuning.unfreeze_stagger=plateau",
            "tuning.plateau.patience=1",
            FOUR_PLATEAUS,
        ),
        ("tuning=discriminative", "tuning.l2_sp=0.1", "tuning.l1=1e-6"),
        pytest.param(("tuning=layer_decay", "tuning.unfreeze_at=1"), marks=pytest.mark.slow),
        pytest.param(("tuning=norm_only", "schedule=warmup_stable_decay"), marks=pytest.mark.slow),
    ],
    ids=lambda overrides: overrides[0].partition("=")[2],
)
def test_every_tuning_plan_trains_from_the_command_line(folder: Path, overrides: tuple[str, ...]) -> None:
    assert exit_code("train", *SYNTHETIC, "trainer.max_epochs=3", *overrides, "output=run") == 0
    assert (folder / "run" / "plots" / "tuning.png").is_file()
    assert (folder / "run" / "model" / "model.safetensors").is_file()


def test_fast_dev_run_trains_one_batch_and_keeps_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run = finetune.train(*SYNTHETIC, "trainer.max_epochs=3", "+trainer.fast_dev_run=true")
    assert list(tmp_path.iterdir()) == []
    assert "iou" in run.scores
    output = capsys.readouterr().out
    message = "trainer.fast_dev_run=true: one batch was trained on, validated and tested; no files were kept"
    assert message in output
    assert "finetune predict" not in output


def test_without_test_batches_the_validation_is_scored_as_such(folder: Path) -> None:
    run = finetune.train(*SYNTHETIC, "+trainer.limit_test_batches=0", "output=run")
    assert [path.name for path in (folder / "run" / "evaluation").iterdir()] == ["val"]
    assert run.scores["iou"] == pytest.approx(run.score)
    with pytest.raises(ConfigError, match="nothing would be scored"):
        finetune.train(*SYNTHETIC, "+trainer.limit_test_batches=0", "+trainer.limit_val_batches=0", "output=none")


def test_limited_scores_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finetune.train(*SYNTHETIC, "data.batch_size=2", "+trainer.limit_test_batches=1")
    assert "trainer.limit_test_batches=1: the scores are of that part of the test images" in capsys.readouterr().out
