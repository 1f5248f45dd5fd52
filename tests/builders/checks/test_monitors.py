"""What a training monitors: one setting for all, checked with each that has its own."""

import pytest

from finetune.builders.checks.monitors import check_monitored
from finetune.builders.task import build_plan
from finetune.config.compose import load_config
from finetune.config.errors import ConfigError

FOREIGN = "+callbacks.mine._target_=lightning.pytorch.callbacks.ModelCheckpoint"


def check(*overrides: str) -> None:
    check_monitored(load_config(["data=synthetic", *overrides], "train"), ["sky", "sea"])


def test_callbacks_plan_and_schedule_follow_the_monitor_of_the_checkpoint() -> None:
    config = load_config(["data=synthetic", "schedule=plateau", "checkpoint.monitor=val/loss"], "train")
    check_monitored(config, ["sky", "sea"])
    groups = (config["schedule"], config["callbacks"]["early_stopping"], config["callbacks"]["checkpoint"])
    for settings in (*groups, config["tuning"]["plateau"]):
        assert (settings["monitor"], settings["mode"]) == ("val/loss", "auto")
    assert build_plan(config["tuning"]).plateau.detector().mode == "min"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("checkpoint.monitor=val/loss", "checkpoint.mode=max"), "checkpoint.mode=max: a higher val/loss is not"),
        (("checkpoint.mode=min",), "checkpoint.mode=min: a lower val/iou is not better. Set checkpoint.mode=max"),
        (
            ("callbacks.early_stopping.monitor=val/loss", "callbacks.early_stopping.mode=max"),
            "callbacks.early_stopping.mode=max: a higher val/loss",
        ),
        (("callbacks.early_stopping.mode=min",), "callbacks.early_stopping.mode=min: a lower val/iou"),
        (("tuning.plateau.mode=min",), "tuning.plateau.mode=min: a lower val/iou"),
        (("schedule=plateau", "schedule.mode=min"), "schedule.mode=min: a lower val/iou"),
        ((FOREIGN, "+callbacks.mine.monitor=val/iou"), "callbacks.mine.mode=min: a lower val/iou is not better"),
        (("checkpoint.monitor=val/iuo",), "checkpoint.monitor='val/iuo' is not logged"),
        (("tuning.plateau.monitor=val/iuo",), "tuning.plateau.monitor='val/iuo' is not logged"),
        (
            ("~callbacks.iou",),
            "checkpoint.monitor='val/iou' is not logged by a validation. Scores are logged by callbacks",
        ),
    ],
)
def test_a_wrong_monitor_or_mode_is_refused_by_the_name_of_its_setting(
    overrides: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError) as error:
        check(*overrides)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("callbacks.early_stopping.monitor=val/loss",),
        ("~callbacks.early_stopping",),
        ("~callbacks.iou", "checkpoint.monitor=val/loss"),
        (FOREIGN,),
        (FOREIGN, "+callbacks.mine.monitor=val/loss"),
        (FOREIGN, "+callbacks.mine.monitor=null"),
        (FOREIGN, "+callbacks.mine.monitor=lr", "+callbacks.mine.mode=min"),
    ],
)
def test_what_is_right_passes(overrides: tuple[str, ...]) -> None:
    check(*overrides)
