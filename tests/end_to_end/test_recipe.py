"""Trainings whose settings follow from the data and a budget, from the command to the run folder."""

import time
from pathlib import Path
from typing import Any

import pytest

import finetune
from finetune.config.errors import ConfigError
from finetune.config.nested import leaves
from finetune.runs.saved_config import read_config
from tests.runs.interrupted import STOP, WITHOUT_STOP, rows, same_weights
from tests.samples import MODEL

pytestmark = pytest.mark.usefixtures("without_figures")

# 8 images of 32 x 32 pixels, whose split, crop, batch and length nobody says
UNSAID = (*MODEL, "data=synthetic", "data.count=16", "data.size=32", "trainer.accelerator=cpu")
STEPS = (*UNSAID, "budget=12steps", "checkpoint.every_n_steps=1", "callbacks.preview=null")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run with a budget of steps."""
    return finetune.train(*STEPS, f"output={tmp_path_factory.mktemp('run') / 'run'}").folder


def trainer_of(folder: Path) -> dict[str, Any]:
    """Return the stored settings of the trainer."""
    settings: dict[str, Any] = read_config(folder)["trainer"]
    return settings


def test_a_run_stores_what_was_decided_and_says_why(run: Path) -> None:
    config, log = read_config(run), (run / "train.log").read_text()
    assert config["augment"]["crop"] == 32
    assert config["data"]["batch_size"] == 8
    assert "augment.crop=32: the median image is 32 x 32, which fits whole" in log
    assert "12 steps of 8 images" in log
    still = {key for key, value in leaves(config).items() if value == "auto" and not key.endswith(".mode")}
    assert still <= {"data.group", "trainer.accelerator", "trainer.strategy"}
    assert (config["trainer"]["max_steps"], rows(run)[-1]["step"]) == (12, "12")


def test_the_last_step_of_a_budget_is_validated(run: Path) -> None:
    interval = trainer_of(run)["val_check_interval"]
    assert interval is not None
    assert 12 % interval == 0
    assert rows(run)[-1]["val/iou"]


def test_a_run_of_a_budget_resumes_with_its_own_plan_and_ends_with_the_same_weights(run: Path, tmp_path: Path) -> None:
    for batch in (1, 8):
        folder = tmp_path / f"run_{batch}"
        with pytest.raises(RuntimeError, match="something broke"):
            finetune.train(*STEPS, f"output={folder}", STOP, f"+callbacks.stop.batch={batch}")
        before = trainer_of(folder)
        finetune.train(*STEPS, f"output={folder}", "resume=auto", WITHOUT_STOP)
        assert trainer_of(folder) == before
        assert "12 steps of 8 images" not in (folder / "train.log").read_text().partition("resuming")[2]
        assert rows(folder) == rows(run)
        assert same_weights(folder, run)


@pytest.mark.slow
def test_a_finished_run_of_a_budget_trains_on_for_more_epochs(run: Path, tmp_path: Path) -> None:
    folder = finetune.train(*STEPS, f"output={tmp_path / 'run'}").folder
    epochs = trainer_of(folder)["max_epochs"]
    finetune.train(f"resume={folder}", f"trainer.max_epochs={2 * epochs}")
    assert int(rows(folder)[-1]["step"]) == 2 * 12


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("budget=soon",), "budget=soon: expected a time such as 10m"),
        (("budget=10m", "trainer.max_epochs=3"), "budget=10m and trainer.max_epochs=3 both set the length"),
        (("budget=9steps", "+trainer.max_steps=3"), "budget=9steps and trainer.max_steps=3 both set the length"),
        (("budget=10m", "trainer.devices=2"), "budget=10m: steps are timed on one device"),
        (("budget=1s",), r"budget=1s: there is no time for 10 steps.* Set \d+s or more"),
    ],
)
def test_a_budget_that_does_not_fit_is_refused(tmp_path: Path, overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        finetune.train(*UNSAID, *overrides, f"output={tmp_path / 'run'}")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_training_ends_when_its_time_is_over(tmp_path: Path) -> None:
    start = time.monotonic()
    folder = finetune.train(*UNSAID, "data.count=60", "budget=40s", f"output={tmp_path / 'run'}").folder
    assert time.monotonic() - start == pytest.approx(40, rel=0.25)  # other tests may take the cores meanwhile
    assert int(rows(folder)[-1]["step"]) == trainer_of(folder)["max_steps"] > 50
