"""`auto` in the words of a training."""

from pathlib import Path

import pytest
import torch
import yaml

import finetune
from finetune.builders.checks.training import check
from finetune.builders.data import DatasetBundle
from finetune.commands.auto_search import AUTO, with_placeholders
from finetune.config.compose import load_config
from tests.samples import DRAWN, MODEL, exit_code, listing

WORDS = (*MODEL, "data=synthetic", "data.count=8", "data.size=32", "augment.crop=32", "trainer.accelerator=cpu")
EASY = (*WORDS, "tuning=discriminative", "trainer.max_epochs=1", "data.count=32")


def test_a_learning_rate_is_found_and_written_down(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finetune.train(*EASY, "optimizer.lr=auto", "output=run")
    kept = yaml.safe_load((run.folder / "config.yaml").read_text())["optimizer"]["lr"]
    assert 1e-5 < kept < 1
    assert f"learning rate found: {kept:.1e} (valley" in capsys.readouterr().out
    assert (run.folder / "plots" / "lr_finder.png").stat().st_size > 5_000


def test_the_search_leaves_no_trace_in_the_training_that_follows(folder: Path) -> None:
    searched = finetune.train(*EASY, "optimizer.lr=auto", "output=searched")
    rate = yaml.safe_load((searched.folder / "config.yaml").read_text())["optimizer"]["lr"]
    given = finetune.train(*EASY, f"optimizer.lr={rate}", "output=given")
    first, second = (torch.load(run.best, weights_only=True)["state_dict"] for run in (searched, given))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_the_python_function_finds_the_same_and_draws_its_curve(folder: Path) -> None:
    finding = finetune.find_lr(*EASY, figure="curve.png")
    assert len(finding.rates) > 50
    assert set(finding.suggestions) == {"valley", "steepest", "minimum"}
    assert listing(folder).keys() == {"curve.png"}


def test_the_largest_batch_is_all_there_is_where_memory_is_plenty(folder: Path) -> None:
    assert finetune.find_batch_size(*WORDS) == 8
    run = finetune.train(*DRAWN, "data.batch_size=auto", "output=run")
    assert yaml.safe_load((run.folder / "config.yaml").read_text())["data"]["batch_size"] == 8


def test_a_batch_that_does_not_fit_is_left_some_room(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(config: object, task: object, shape: tuple[int, ...]) -> object:
        def run() -> None:
            if shape[0] > 100:
                raise MemoryError("out of memory")

        return run

    monkeypatch.setattr("finetune.commands.auto_search.noise_step", step)
    assert finetune.find_batch_size(*WORDS, "data.count=400") == 90


def test_a_rate_is_searched_with_all_that_ever_trains(folder: Path) -> None:
    later, at_once = (finetune.find_lr(*EASY, "trainer.max_epochs=4", f"tuning.unfreeze_at={at}") for at in (0.5, 0))
    assert later.losses == at_once.losses


def test_numbers_stand_in_for_auto_until_it_is_found() -> None:
    config, found = with_placeholders(load_config((*DRAWN, "data.batch_size=auto"), "train"))
    assert found == {"data"}
    assert config["data"]["batch_size"] == AUTO["data"][1]
    assert isinstance(check(config), DatasetBundle)


@pytest.mark.parametrize("word", ["data.batch_size=auto", "optimizer.lr=auto"])
def test_a_search_on_several_devices_is_refused(folder: Path, word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("train", *DRAWN, word, "trainer.devices=2") == 2
    assert f"{word} searches on one device, but trainer.devices=2" in capsys.readouterr().err
    assert not listing(folder)


def test_another_word_than_auto_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("train", *DRAWN, "data.batch_size=atuo", "optimizer.lr=automatic") == 2
    said = capsys.readouterr().err
    assert "data.batch_size=atuo: expected a whole number or auto" in said
    assert not listing(folder)


def test_a_schedule_that_the_found_batch_size_leaves_too_few_steps_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("train", *DRAWN, "data.batch_size=auto", "schedule.warmup=3") == 2
    assert "a warmup of 3 steps does not fit into 1 steps of training" in capsys.readouterr().err
    assert not listing(folder)
