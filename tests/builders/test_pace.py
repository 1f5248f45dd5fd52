"""What a budget of time makes of a config, with a pace that is given instead of measured."""

import time
from typing import Any

import pytest

from finetune.builders import pace
from finetune.builders.data import training_data
from finetune.builders.dataset_bundle import DatasetBundle
from finetune.recipe.budget import Pace
from finetune.reports.examples import SHOWN
from tests.samples import MODEL, decided


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> DatasetBundle:
    """Return the data of a training in which an image of a step takes a tenth of a second."""

    def measured(config: dict[str, Any], *_: Any) -> Pace:
        assert config["data"]["batch_size"] == 8, "timed a second time"
        return Pace(before=2.0, step=0.1 * config["data"]["batch_size"], validation=0.5, after=1.0)

    monkeypatch.setattr(pace, "measure_pace", measured)
    return training_data(config("10m"))


def config(budget: str) -> dict[str, Any]:
    given = ("data=synthetic", "data.count=24", "data.size=48", "backbone.in_channels=3", f"budget={budget}")
    settings = decided((*MODEL, *given, "data.batch_size=8"))
    return {**settings, "trainer": {**settings["trainer"], "max_epochs": "auto", "check_val_every_n_epoch": "auto"}}


def test_a_short_training_has_smaller_batches_and_more_steps(data: DatasetBundle) -> None:
    short, lines = pace.with_budget(config("60s"), data, 0.0, may_shrink=True)
    assert short["data"]["batch_size"] == 4
    assert lines[0] == "data.batch_size=4 instead: there is time for 71 steps of 8 images, and more steps help more"
    assert 100 < short["trainer"]["max_steps"] <= (60 - 3) / 0.4
    long, lines = pace.with_budget(config("10m"), data, 0.0, may_shrink=True)
    assert long["data"]["batch_size"] == 8
    assert len(lines) == 1
    assert 600 < long["trainer"]["max_steps"] <= (600 - 3) / 0.8


def test_validations_after_each_epoch_are_counted(data: DatasetBundle) -> None:
    each = config("10m")
    each = {**each, "trainer": {**each["trainer"], "check_val_every_n_epoch": 1}}
    steps = pace.with_budget(each, data, 0.0)[0]["trainer"]["max_steps"]
    in_epoch = data.sizes()["train"] // 8
    assert 0.98 * (600 - 3) < steps * (0.8 + 0.5 / in_epoch + pace.EPOCH / in_epoch) <= 600 - 3


def test_a_batch_size_that_was_given_stays(data: DatasetBundle) -> None:
    given, lines = pace.with_budget(config("60s"), data, 0.0)
    assert given["data"]["batch_size"] == 8
    assert len(lines) == 1
    assert given["trainer"]["max_steps"] <= (60 - 3) / 0.8


def test_the_pace_is_that_of_the_parts_that_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "_time_steps", lambda *_: 0.5)
    monkeypatch.setattr(pace, "_time_evaluation", lambda *_: 0.1)
    settings = config("10m")
    settings = {**settings, "trainer": {**settings["trainer"], "accumulate_grad_batches": 3}}
    data = training_data(settings)
    val, test = data.sizes()["val"], data.sizes()["test"]
    found = pace.measure_pace(settings, data, 1.0, time.monotonic() - 7)
    assert found.step == pytest.approx(3 * 0.5 + pace.LOOP)
    assert found.validation == pytest.approx(0.1 * (val + min(4, val)) + pace.VALIDATION)  # four are drawn
    assert found.after == pytest.approx(0.1 * (test + min(test, 2 * SHOWN)) + pace.END)
    assert 7 + pace.START < found.before < 37
    three = {**settings["checkpoint"], "keep_best": 3}
    soup = {**settings, "soup": True, "checkpoint": three, "tta": {"flips": ["horizontal"]}}
    longer = pace.measure_pace(soup, data, 1.0, time.monotonic())
    assert longer.after == pytest.approx(0.2 * (test + min(test, 2 * SHOWN)) + 2 * found.validation + pace.END)
