"""Searches of the learning rate and the batch size: `auto` in the overrides of a training, and in Python."""

from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

import finetune
from finetune.builders.checks.training import check
from finetune.builders.dataset_bundle import DatasetBundle
from finetune.commands.auto_search import SEARCHED, with_placeholders
from finetune.commands.train import TrainResult
from finetune.config.compose import load_config
from finetune.tuning import lr_finder
from tests.samples import MODEL, SYNTHETIC, exit_code, listing

pytestmark = pytest.mark.usefixtures("without_figures")

OVERRIDES = (*MODEL, "data=synthetic", "data.count=8", "data.size=32", "augment.crop=32", "trainer.accelerator=cpu")
EASY = (*OVERRIDES, "tuning=discriminative", "trainer.max_epochs=1", "data.count=24", "data.batch_size=4")


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """Return a training with the learning rate that it has searched."""
    return finetune.train(*EASY, "optimizer.lr=auto", f"output={tmp_path_factory.mktemp('searched')}")


def found_rate(run: TrainResult) -> float:
    return yaml.safe_load((run.folder / "config.yaml").read_text())["optimizer"]["lr"]


def test_the_learning_rate_found_is_logged_and_stored(searched: TrainResult) -> None:
    rate = found_rate(searched)
    assert 1e-5 < rate < 1
    assert f"optimizer.lr=auto: {rate} was found" in (searched.folder / "train.log").read_text()
    assert (searched.folder / "plots" / "lr_finder.png").stat().st_size > 5_000


def test_the_search_does_not_affect_the_training_that_follows(folder: Path, searched: TrainResult) -> None:
    given = finetune.train(*EASY, f"optimizer.lr={found_rate(searched)}", "output=given")
    first, second = (torch.load(run.best, weights_only=True)["state_dict"] for run in (searched, given))
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@pytest.mark.slow
def test_find_lr_in_python_logs_the_suggestions_and_draws_the_curve(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finding = finetune.find_lr(*EASY, figure="curve.png")
    assert f"learning rate found: {finding.suggestion:.1e} (valley" in capsys.readouterr().out
    assert len(finding.rates) > 50
    assert set(finding.suggestions) == {"valley", "steepest", "minimum"}
    assert listing(folder).keys() == {"curve.png"}


@pytest.mark.slow
def test_with_enough_memory_the_batch_size_is_the_number_of_images(folder: Path) -> None:
    assert finetune.find_batch_size(*OVERRIDES) == 8
    run = finetune.train(*SYNTHETIC, "data.batch_size=largest", "output=run")
    assert yaml.safe_load((run.folder / "config.yaml").read_text())["data"]["batch_size"] == 8


@pytest.mark.slow
def test_the_batch_size_found_leaves_some_memory_free(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(config: object, task: object, shape: tuple[int, ...]) -> object:
        def run() -> None:
            if shape[0] > 20:
                raise MemoryError("out of memory")

        return run

    monkeypatch.setattr("finetune.commands.auto_search.noise_step", step)
    assert finetune.find_batch_size(*OVERRIDES, "data.count=60") == 18


def test_the_search_trains_all_parameters_that_ever_train(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainable: list[set[str]] = []

    def record(model: nn.Module, *_: object, **__: object) -> None:
        trainable.append({name for name, parameter in model.named_parameters() if parameter.requires_grad})
        raise StopIteration

    monkeypatch.setattr(lr_finder, "find_lr", record)
    for start in (0.5, 0):
        with pytest.raises(StopIteration):
            finetune.find_lr(*EASY, "trainer.max_epochs=4", f"tuning.unfreeze_at={start}")
    later, at_once = trainable
    assert later == at_once
    assert any(name.startswith("backbone.") for name in later)


def test_placeholders_replace_auto_until_a_value_is_found() -> None:
    config, searched = with_placeholders(load_config((*SYNTHETIC, "data.batch_size=largest"), "train"))
    assert searched == ["data.batch_size"]
    assert config["data"]["batch_size"] == SEARCHED["data.batch_size"][1]
    assert isinstance(check(config)[1], DatasetBundle)


@pytest.mark.parametrize(("length", "steps"), [("budget=10steps", 10), ("recipe.length=0.008", 5)])
def test_the_length_is_that_of_the_batch_size_that_was_found(
    folder: Path, monkeypatch: pytest.MonkeyPatch, length: str, steps: int
) -> None:
    monkeypatch.setattr("finetune.commands.auto_search._find_batch_size", lambda *_: 4)
    overrides = (*SYNTHETIC, "data.count=24", "data.batch_size=largest", "trainer.max_epochs=auto", length)
    run = finetune.train(*overrides, "output=run")
    assert torch.load(run.folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == steps
    assert run.score == run.score  # a validation fits into it


@pytest.mark.parametrize("devices", ["auto", "[0]"])
def test_one_device_may_be_given_in_other_words(devices: str) -> None:
    config = load_config((*SYNTHETIC, "optimizer.lr=auto", f"trainer.devices={devices}"), "train")
    assert with_placeholders(config)[1] == ["optimizer.lr"]


@pytest.mark.parametrize("override", ["data.batch_size=largest", "optimizer.lr=auto"])
def test_a_search_on_several_devices_is_refused(
    folder: Path, override: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("train", *SYNTHETIC, override, "trainer.devices=2") == 2
    assert f"{override} is searched on one device, but trainer.devices=2" in capsys.readouterr().err
    assert not listing(folder)


def test_a_misspelled_auto_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("train", *SYNTHETIC, "data.batch_size=atuo", "optimizer.lr=automatic") == 2
    assert "data.batch_size=atuo: expected a whole number or auto" in capsys.readouterr().err
    assert not listing(folder)


def test_a_warmup_longer_than_the_training_at_the_batch_size_found_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("train", *SYNTHETIC, "data.batch_size=largest", "schedule.warmup=3") == 2
    assert "a warmup of 3 steps does not fit into 1 steps of training" in capsys.readouterr().err
    assert not listing(folder)
