"""Settings of another kind than their readers expect are told of before anything stumbles over them."""

import pytest

from finetune.builders.checks.settings import type_errors
from finetune.builders.checks.training import check, check_without_data
from finetune.config.compose import compose, load_config, to_plain_dict
from finetune.config.errors import ConfigError

SYNTHETIC = ("data=synthetic", "backbone.weights=none")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("backbone.name=[a,b]", "backbone.name=['a', 'b']: expected text or null."),
        ("backbone.in_channels=true", "backbone.in_channels=True: expected a whole number or auto."),
        ("backbone.grad_checkpointing=abc", "backbone.grad_checkpointing=abc: expected true or false."),
        ("backbone.options=3", "backbone.options=3: expected a group of settings."),
        ("head.name=null", "head.name=None: expected text."),
        (
            "head.decoder_channels=wide",
            "head.decoder_channels=wide: expected a list of whole numbers or auto.",
        ),
        ("loss.dice_weight=much", "loss.dice_weight=much: expected a number."),
        ("optimizer.lr=[1,2]", "optimizer.lr=[1, 2]: expected a number or auto."),
        ("augment.scale=1", "augment.scale=1: expected a list of 2 numbers or auto."),
        ("tuning.plateau.patience=1.5", "tuning.plateau.patience=1.5: expected a whole number."),
        ("tuning.plateau=3", "tuning.plateau=3: expected a group of settings"),
        ("tuning.plateau=null", "tuning.plateau=None: expected a group of settings"),
        ("seed=[1,2]", "data.seed=[1, 2]: expected a whole number."),
        ("tuning.phase_lr=1", "tuning.phase_lr=1: expected a list of numbers."),
        ("data.format=null", "unknown data.format 'None'. Choose from"),
        ("data.batch_size=[4]", "data.batch_size=[4]: expected a whole number or auto."),
        ("data.count=[8,2]", "data.count=[8, 2]: expected a whole number."),
    ],
)
def test_a_setting_of_the_wrong_type_is_refused_with_the_expected_type(given: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        check(to_plain_dict(compose(*SYNTHETIC, given)))
    assert str(error.value).startswith(message)


def test_all_unknown_settings_are_reported_at_once() -> None:
    config = to_plain_dict(compose(*SYNTHETIC, "head.center=[1]", "loss.gamma=x", "loss=focal", "augment.flip=yes"))
    assert [line.partition("=")[0] for line in type_errors(config)] == ["head.center", "loss.gamma", "augment.flip"]


@pytest.mark.parametrize(
    "overrides",
    [
        ("optimizer.lr=1", "loss.label_smoothing=0"),
        ("augment.crop=[64,96]", "data.size=[64,96]"),
        ("augment.crop=null", "tuning.unfreeze_at=0.5", "tuning.unfreeze_stagger=plateau", "tuning.warmup=0.1"),
        ("tuning=lora", "tuning.lora.targets=qkv"),
        ("head.decoder_channels=[64,32,32,16,16]", "head.norm={type: batchnorm, momentum: 0.01}"),
    ],
)
def test_special_values_of_a_setting_are_accepted(overrides: tuple[str, ...]) -> None:
    assert type_errors(to_plain_dict(compose(*SYNTHETIC, *overrides))) == []


def test_a_setting_of_an_experiment_that_does_not_fit_says_how_to_take_it_out() -> None:
    with pytest.raises(
        ConfigError, match=r"head\.decoder_channels.*If an experiment sets it, ~head\.decoder_channels tak"
    ):
        check_without_data(load_config(["experiment=quickstart", "head=fpn"], "train"))
    check_without_data(load_config(["experiment=quickstart", "head=fpn", "~head.decoder_channels"], "train"))
