"""When the plan is applied, and what is said about it."""

import logging
from typing import Any

import lightning.pytorch as pl
import pytest
from lightning.pytorch.trainer.states import TrainerFn

from finetune.callbacks import Tuning
from tests.tasks.tiny_run import FROZEN, tiny_data, tiny_task, tiny_trainer


class Modes(pl.Callback):
    """Notes before every batch whether the backbone trains, and the decoder."""

    def __init__(self) -> None:
        self.seen: list[tuple[bool, bool]] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        model = pl_module.model
        backbone = any(module.training for module in model.backbone.modules())
        self.seen.append((backbone, all(module.training for module in model.decoder.modules())))


@pytest.mark.parametrize("options", [{}, {"val_check_interval": 1}, {"num_sanity_val_steps": 1}])
def test_the_plan_holds_at_every_batch_whatever_validation_comes_before(options: dict[str, Any]) -> None:
    modes = Modes()
    tiny_trainer(Tuning(), modes, max_epochs=2, **options).fit(tiny_task(plan=FROZEN), datamodule=tiny_data())
    assert modes.seen == [(False, True)] * 4


def test_what_is_frozen_requires_no_gradient_before_a_strategy_wraps_the_model() -> None:
    task = tiny_task(plan=FROZEN)
    Tuning().setup(tiny_trainer(), task, "fit")
    assert {name.split(".")[0] for name, p in task.model.named_parameters() if p.requires_grad} == {"decoder", "head"}


def test_a_validation_that_stands_alone_touches_nothing() -> None:
    task = tiny_task(plan=FROZEN)
    tiny_trainer(Tuning()).validate(task, datamodule=tiny_data(), verbose=False)
    assert all(parameter.requires_grad for parameter in task.model.parameters())


def test_it_says_once_what_trains(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    task = tiny_task(plan=FROZEN)
    tiny_trainer(Tuning(), max_epochs=2).fit(task, datamodule=tiny_data())
    said = [record.getMessage() for record in caplog.records if record.name == "finetune.callbacks.tuning"]
    unused = task.model.unused_parameters()
    counted = [p.numel() for name, p in task.model.backbone.named_parameters() if f"backbone.{name}" not in unused]
    assert said == task.describe_plan()
    assert said[0] == f"tuning rule 'backbone': {sum(counted):,} parameters in {len(counted)} tensors, frozen"


def test_a_module_without_a_plan_is_refused() -> None:
    with pytest.raises(TypeError, match=r"needs a TuningTask with a plan to apply, got LightningModule"):
        Tuning().setup(tiny_trainer(), pl.LightningModule(), "fit")


def test_the_plan_is_applied_anew_after_a_validation_inside_an_epoch() -> None:
    task, tuning, trainer = tiny_task(plan=FROZEN), Tuning(), tiny_trainer()
    trainer.state.fn = TrainerFn.FITTING
    task.train()
    tuning.on_validation_end(trainer, task)
    assert not any(module.training for module in task.model.backbone.modules())
    assert task.model.decoder.training
