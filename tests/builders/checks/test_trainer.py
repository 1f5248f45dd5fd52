"""Optimizers, numbers and loading processes that cannot train are found before anything is written."""

import socket
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from timm.optim import list_optimizers

from finetune.builders.checks.trainer import check_budget, check_optimizer
from finetune.builders.checks.training import check, check_without_data, check_workers
from finetune.config.compose import load_config
from finetune.config.errors import ConfigError
from tests.samples import SYNTHETIC


def mistake(*overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        check_without_data(load_config([*SYNTHETIC, *overrides], "train"))
    return str(error.value)


def test_wrong_settings_of_callbacks_are_reported_with_all_others() -> None:
    message = mistake(
        "callbacks.early_stopping.patience=0", "callbacks.non_finite.max_skipped_steps=-2", "optimizer.lr=-1"
    )
    assert "callbacks.early_stopping: patience=0" in message
    assert "callbacks.non_finite: NonFiniteGuard has max_skipped_steps=-2" in message
    assert "optimizer.lr=-1" in message


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("average=swa",), "budget=1h: average=swa passes over all training images before validations"),
        (("trainer.max_epochs=3",), "both set the length. Leave one of them out. If an experiment sets trainer.max_e"),
        (("trainer.max_epochs=3",), "add trainer.max_epochs=auto."),
        (("+trainer.max_steps=3",), "add trainer.max_steps=-1."),
    ],
)
def test_what_a_budget_of_time_does_not_go_with_is_refused(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_budget(load_config(["trainer.max_epochs=auto", "budget=1h", *overrides], "train"))
    assert message in str(error.value)


def test_what_cannot_be_sharded_is_refused() -> None:
    assert "task=instance, whose losses need the whole model" in mistake("task=instance", "trainer.strategy=fsdp2")
    assert "strategy=fsdp shards in torch's first way, which is not supported" in mistake("trainer.strategy=fsdp")


def test_a_budget_of_time_is_compared_with_a_schedule_only_once_its_steps_are_known() -> None:
    overrides = ("trainer.max_epochs=auto", "schedule.warmup=5000")
    known, _ = check(load_config([*SYNTHETIC, *overrides, "budget=10h"], "train"))
    assert known["trainer"]["max_epochs"] == "auto"
    with pytest.raises(ConfigError, match="a warmup of 5000 steps does not fit"):
        check(load_config([*SYNTHETIC, *overrides], "train"))


@pytest.mark.parametrize("preset", ["discriminative", "gradual", "layer_decay", "full"])
def test_a_backbone_may_be_frozen_under_each_preset(preset: str) -> None:
    check_without_data(load_config([*SYNTHETIC, f"tuning={preset}", "tuning.unfreeze_at=never"], "train"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("optimizer.name=adahessian",), "optimizer.name=adahessian cannot train: element 0 of tensors does not"),
        (("+optimizer.options.betas=[0.9]",), "options={'betas': [0.9]} cannot train: list index out of range"),
        (("+optimizer.options.betaz=[0.9]",), "options={'betaz': [0.9]} cannot train"),
        (("trainer.gradient_clip_val=-1",), "gradient_clip_val=-1: expected a number above 0, or null"),
        (("data.mask_values={0:1,255:0}", "data=folder"), "by class: data.mask_values=[255,0]"),
        (("data.classes={0:road,1:sky}", "data=folder"), "by class: data.classes=[road,sky]"),
        (("data.mask_values={road:3,sky:4}", "data=folder"), "Give a list with one entry per class, in their order."),
        (("augment.crop=[48]",), "augment.crop=[48]: expected a whole number or a list of 2 whole numbers or null"),
        (("augment.crop=[1,2,3]",), "a list of 2 whole numbers"),
        (("augment.crop=large",), "augment.crop=large: expected a whole number"),
        (("augment.crop=1.5",), "augment.crop=1.5: expected a whole number"),
        (("augment.scale=[1]",), "augment.scale=[1]: expected a list of 2 numbers"),
        (("augment.hue=0.7",), "hue=0.7: expected a number from 0 to 0.5"),
        (("augment.brightness=-0.1",), "brightness=-0.1: expected a number from 0 to 1"),
        (("augment.rotation=181",), "rotation=181: expected a number from 0 to 180"),
        (("~optimizer.lr",), "optimizer.lr is missing, but a training needs it."),
        (("~tuning.rules",), "tuning.rules is missing"),
        (("~trainer.max_epochs",), "trainer.max_epochs is missing"),
        (("+trainer.num_nodes=2",), "nothing has started this process on several nodes"),
        (("+trainer.limit_train_batches=abc",), "limit_train_batches=abc: expected a whole number or a number or null"),
        (("+trainer.max_time=1",), "trainer.max_time=1: expected text"),
        (("trainer.check_val_every_n_epoch=0",), "check_val_every_n_epoch=0: expected 1 or more"),
        (("+trainer.val_check_interval=0",), "val_check_interval=0: expected more than 0"),
        (("trainer.gradient_clip_val=nan",), "gradient_clip_val=nan: expected a number"),
        (("trainer.deterministic=foo",), "trainer.deterministic=foo: expected true or false or warn"),
        (("+trainer.max_steps=1.5",), "trainer.max_steps=1.5: expected a whole number"),
        (("+trainer.limit_test_batches=0.01",), "limit_test_batches=0.01 of 1 batches is none"),
        (("callbacks.early_stopping.patience=abc",), "callbacks.early_stopping.patience=abc: expected a whole number"),
        (("+callbacks.preview.foo=1",), "there is no setting callbacks.preview.foo"),
        (("+optimizer.options.layer_decay=0.5",), "optimizer.options.layer_decay has no effect"),
        (("+optimizer.options.momentum=0.5",), "optimizer.options.momentum has no effect on adamw"),
        (("checkpoint.monitor=val/iou/Disc",), "'val/iou/Disc' is not logged by a validation"),
        (("+callbacks.mine=3",), "callbacks.mine=3: expected settings that include _target_"),
        (("+callbacks.average=0.9",), "callbacks.average=0.9: expected settings that include _target_"),
        (("+trainer.max_steps=0",), "trainer.max_steps=0: expected 1 or more, or -1"),
        (("+trainer.limit_val_batches=0", "schedule=plateau"), "gives no score for schedule=plateau to wait for"),
        (("+trainer.limit_val_batches=0", "tuning.unfreeze_at=plateau"), "gives no score for the tuning plan to wait"),
    ],
)
def test_settings_that_cannot_train_are_refused(overrides: tuple[str, ...], message: str) -> None:
    data = [text for text in SYNTHETIC if not text.startswith("data")] if "data=folder" in overrides else SYNTHETIC
    with pytest.raises(ConfigError) as error:
        check(load_config([*data, *overrides], "train"))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.accumulate_grad_batches=0", "accumulate_grad_batches=0: expected a whole number of 1 or more"),
        ("+trainer.limit_train_batches=0", "limit_train_batches=0: expected more than 0"),
        ("+trainer.num_nodes=0", "num_nodes=0: expected 1 or more"),
        ("+trainer.overfit_batches=-1", "overfit_batches=-1: expected 0, for none, or more"),
        ("recipe.length=inf", "recipe.length=inf: expected a number above 0"),
    ],
)
def test_a_number_out_of_range_is_named_although_the_length_would_be_computed_from_it(
    override: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check(load_config([*SYNTHETIC, "trainer.max_epochs=auto", override], "train"))


def test_lightnings_default_of_overfit_batches_is_accepted() -> None:
    check(load_config([*SYNTHETIC, "+trainer.overfit_batches=0.0"], "train"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="these optimizers train on a GPU")
@pytest.mark.parametrize("name", [name for name in ("bnbadam", "fusedadam") if name in list_optimizers()])
def test_optimizers_for_gpus_are_refused_on_a_cpu(name: str) -> None:
    assert f"optimizer.name={name} cannot train: CUDA required" in mistake(f"optimizer.name={name}")


@pytest.mark.parametrize("name", ["adamw", "sgd", "lamb", "lion", "muon", "adafactor", "nadamw", "adopt"])
def test_common_optimizers_are_accepted(name: str) -> None:
    check_optimizer(load_config([*SYNTHETIC, f"optimizer.name={name}"], "train"))


def test_loading_processes_need_a_short_temporary_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config([*SYNTHETIC, "data.num_workers=1"], "train")
    monkeypatch.setattr(tempfile, "gettempdir", lambda: "/" + 74 * "x")
    check_workers(config)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: "/" + 75 * "x")
    with pytest.raises(ConfigError, match=r"TMPDIR to a path of at most 75 bytes, or data.num_workers=0"):
        check_workers(config)
    check_workers({**config, "data": {**config["data"], "num_workers": 0}})


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other limits")
def test_a_socket_fits_into_the_longest_temporary_folder_only() -> None:
    with tempfile.TemporaryDirectory() as base:
        for length, expected in ((75, nullcontext()), (76, pytest.raises(OSError, match="too long"))):
            folder = Path(base, "x" * (length - len(base) - 1), "pymp-01234567")
            folder.mkdir(parents=True)
            with socket.socket(socket.AF_UNIX) as listener, expected:
                listener.bind(str(folder / "listener-01234567"))
