"""What a budget of time makes of a config, with a pace that is given instead of measured."""

from typing import Any

import pytest

from finetune.builders import pace
from finetune.builders.data import training_data
from finetune.builders.dataset_bundle import DatasetBundle
from finetune.recipe.budget import Pace
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


def test_a_batch_size_that_was_given_stays(data: DatasetBundle) -> None:
    given, lines = pace.with_budget(config("60s"), data, 0.0)
    assert given["data"]["batch_size"] == 8
    assert len(lines) == 1
    assert given["trainer"]["max_steps"] <= (60 - 3) / 0.8
