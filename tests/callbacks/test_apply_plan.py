"""When the plan is applied, and what is logged about it."""

import logging
import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn

from finetune.callbacks import EMA, ApplyTuningPlan, IoU
from finetune.tasks import SemanticTask
from finetune.tuning.parameter_info import PlanError
from finetune.tuning.plan import Plan, PlateauCriterion, Rule
from finetune.tuning.schedules import schedule
from tests.tasks.tiny_run import FROZEN, tiny_data, tiny_task, tiny_trainer


class Modes(pl.Callback):
    """Records before every batch whether the backbone and the decoder are in training mode."""

    def __init__(self) -> None:
        self.seen: list[tuple[bool, bool]] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        model = pl_module.model
        backbone = any(module.training for module in model.backbone.modules())
        self.seen.append((backbone, all(module.training for module in model.decoder.modules())))


@pytest.mark.parametrize("options", [{}, {"val_check_interval": 1}, {"num_sanity_val_steps": 1}])
def test_a_validation_does_not_undo_the_plan(options: dict[str, Any]) -> None:
    modes = Modes()
    tiny_trainer(ApplyTuningPlan(), modes, max_epochs=2, **options).fit(tiny_task(plan=FROZEN), datamodule=tiny_data())
    assert modes.seen == [(False, True)] * 4


def test_frozen_parameters_require_no_gradient_before_a_strategy_wraps_the_model() -> None:
    task = tiny_task(plan=FROZEN)
    ApplyTuningPlan().setup(tiny_trainer(), task, "fit")
    assert {name.split(".")[0] for name, p in task.model.named_parameters() if p.requires_grad} == {"decoder", "head"}


def test_a_separate_validation_freezes_nothing() -> None:
    task = tiny_task(plan=FROZEN)
    tiny_trainer(ApplyTuningPlan()).validate(task, datamodule=tiny_data(), verbose=False)
    assert all(parameter.requires_grad for parameter in task.model.parameters())


def test_it_logs_once_what_trains(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    task = tiny_task(plan=FROZEN)
    tiny_trainer(ApplyTuningPlan(), max_epochs=2).fit(task, datamodule=tiny_data())
    lines = [record.getMessage() for record in caplog.records if record.name == "finetune.callbacks.apply_plan"]
    unused = task.model.unused_parameters()
    counted = [p.numel() for name, p in task.model.backbone.named_parameters() if f"backbone.{name}" not in unused]
    assert lines == task.describe_plan()  # nothing changes in a plan without phases
    assert lines[0] == f"tuning rule 'backbone': {sum(counted):,} parameters in {len(counted)} tensors, frozen"


def test_a_module_without_a_plan_is_rejected() -> None:
    with pytest.raises(TypeError, match=r"ApplyTuningPlan needs a TuningTask, but the Trainer got a LightningModule"):
        ApplyTuningPlan().setup(tiny_trainer(), pl.LightningModule(), "fit")


def test_the_plan_is_applied_again_after_a_validation_inside_an_epoch() -> None:
    task, tuning, trainer = tiny_task(plan=FROZEN), ApplyTuningPlan(), tiny_trainer()
    trainer.state.fn = TrainerFn.FITTING
    task.train()
    tuning.on_validation_end(trainer, task)
    assert not any(module.training for module in task.model.backbone.modules())
    assert task.model.decoder.training


GRADUAL = Plan((Rule("backbone", train=[[1, None]], stagger=2), Rule(".")))
PLATEAU = Plan(
    (Rule("backbone", train=[["plateau", None]]), Rule(".")), plateau=PlateauCriterion("fixed", "max", patience=2)
)


class Trainable(pl.Callback):
    """Records how many tensors of the backbone train at the first batch of each epoch."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self.seen.append(sum(p.requires_grad for p in pl_module.model.backbone.parameters()))


class Scores(pl.Callback):
    """Logs a fixed score at each validation."""

    def __init__(self, *values: float) -> None:
        self.values = values

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.log("fixed", self.values[trainer.current_epoch])


class Saves(pl.Callback):
    """Saves a checkpoint after every validation."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.save_checkpoint(self.folder / f"{trainer.current_epoch}.ckpt")


def weights(task: SemanticTask) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in task.model.state_dict().items()}


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_layer_groups_are_unfrozen_at_their_epochs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    task, trainable = tiny_task(plan=GRADUAL), Trainable()
    tiny_trainer(ApplyTuningPlan(), trainable, max_epochs=4).fit(task, datamodule=tiny_data())
    groups = [len(group) for group in task.model.layer_groups()]
    assert len(groups) == 5
    assert trainable.seen == [0, groups[4], sum(groups[2:]), sum(groups)]
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("epoch ")]
    assert [line.partition(";")[0] for line in lines] == [
        "epoch 2: unfroze backbone[4]",
        "epoch 3: unfroze backbone[3], backbone[2]",
        "epoch 4: unfroze backbone[1], backbone[0]",
    ]


def test_a_frozen_backbone_is_bit_identical_until_it_is_unfrozen(tmp_path: Path) -> None:
    task = tiny_task(plan=GRADUAL)
    before = weights(task)
    tiny_trainer(ApplyTuningPlan(), Saves(tmp_path), max_epochs=4).fit(task, datamodule=tiny_data())
    saved = torch.load(tmp_path / "0.ckpt", weights_only=True)["state_dict"]
    backbone = [name for name in before if name.startswith("backbone.")]
    assert len(backbone) > 50
    assert all(torch.equal(before[name], saved[f"model.{name}"]) for name in backbone)
    assert not all(torch.equal(before[name], tensor) for name, tensor in weights(task).items() if name in backbone)


Schedule = tuple[str, bool]  # its name, and whether weights are averaged


def unfreezing_task(schedule: Schedule) -> SemanticTask:
    plan = Plan(GRADUAL.rules, warmup=2, restart_schedule=schedule[0] == "poly", phase_lr=(1.0, 0.5))
    options = {"monitor": "fixed", "mode": "max", "patience": 1} if schedule[0] == "plateau" else {}
    return tiny_task(plan=plan, schedule_name=schedule[0], schedule_options=options)


def unfreezing_callbacks(schedule: Schedule) -> list[pl.Callback]:
    return [Scores(0.5, 0.4, 0.6, 0.5), ApplyTuningPlan(), *([EMA(0.9)] if schedule[1] else [])]


@pytest.fixture(scope="module", params=[("poly", False), ("plateau", False), ("poly", True)])
def uninterrupted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Schedule, SemanticTask, Path]:
    """Return a training of four epochs: its schedule, the trained task, and the folder of its checkpoints."""
    task, folder = unfreezing_task(request.param), tmp_path_factory.mktemp("uninterrupted")
    tiny_trainer(*unfreezing_callbacks(request.param), Saves(folder), max_epochs=4).fit(task, datamodule=tiny_data())
    return request.param, task, folder


@pytest.mark.parametrize("cut", [0, 1, 2])
def test_a_training_resumed_before_at_and_after_an_unfreezing_ends_with_the_same_weights(
    uninterrupted: tuple[Schedule, SemanticTask, Path], cut: int
) -> None:
    schedule, whole, folder = uninterrupted
    resumed, trainable = unfreezing_task(schedule), Trainable()
    tiny_trainer(*unfreezing_callbacks(schedule), trainable, max_epochs=4).fit(
        resumed, datamodule=tiny_data(), ckpt_path=folder / f"{cut}.ckpt", weights_only=True
    )
    assert len(trainable.seen) == 3 - cut
    assert equal(weights(whole), weights(resumed))


def test_the_plan_moves_on_when_the_score_plateaus(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    task, trainable = tiny_task(plan=PLATEAU), Trainable()
    scores = Scores(0.1, 0.3, 0.2, 0.3, 0.1, 0.1)
    tiny_trainer(scores, ApplyTuningPlan(), trainable, max_epochs=6).fit(task, datamodule=tiny_data())
    assert [count > 0 for count in trainable.seen] == [False, False, False, False, True, True]
    assert task.timeline.plateaus == (4,)
    assert "fixed has not improved for 2 validations: next step of the plan" in caplog.text


def test_a_plateau_before_the_plan_waits_for_one_has_no_effect() -> None:
    rules = (Rule("backbone", train=[[3, None]], stagger="plateau"), Rule("."))
    task, trainable = tiny_task(plan=Plan(rules, plateau=PlateauCriterion("fixed", "max", patience=1))), Trainable()
    tiny_trainer(Scores(*[0.1] * 12), ApplyTuningPlan(), trainable, max_epochs=12).fit(task, datamodule=tiny_data())
    assert task.timeline.plateaus == (5, 7, 9, 11)
    assert trainable.seen[:3] == [0, 0, 0]
    assert trainable.seen[3] == trainable.seen[4] < trainable.seen[5] == trainable.seen[6] < trainable.seen[7]


RESTORING = Plan(PLATEAU.rules, plateau=PlateauCriterion("fixed", "max", patience=2, restore_best=True))


class FifthEpoch(pl.Callback):
    """Keeps the weights with which the fifth epoch starts."""

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch == 4 and batch_idx == 0:
            self.weights = weights(pl_module)


@pytest.fixture(scope="module")
def restoring(tmp_path_factory: pytest.TempPathFactory) -> tuple[SemanticTask, FifthEpoch, Path]:
    """Return a training of six epochs that plateaus in the fourth: the task, its fifth epoch, its checkpoints."""
    task, fifth, folder = tiny_task(plan=RESTORING), FifthEpoch(), tmp_path_factory.mktemp("restoring")
    scores = Scores(0.1, 0.3, 0.2, 0.3, 0.1, 0.1)
    tiny_trainer(scores, ApplyTuningPlan(), Saves(folder), fifth, max_epochs=6).fit(task, datamodule=tiny_data())
    return task, fifth, folder


@pytest.mark.parametrize("cut", [1, 2, 3, 4])
def test_a_resumed_training_keeps_its_plateaus_and_its_patience(
    restoring: tuple[SemanticTask, FifthEpoch, Path], cut: int
) -> None:
    whole, _, folder = restoring
    resumed = tiny_task(plan=RESTORING)
    tiny_trainer(Scores(0.1, 0.3, 0.2, 0.3, 0.1, 0.1), ApplyTuningPlan(), max_epochs=6).fit(
        resumed, datamodule=tiny_data(), ckpt_path=folder / f"{cut}.ckpt", weights_only=True
    )
    assert resumed.timeline.plateaus == (4,)
    assert equal(weights(whole), weights(resumed))


def test_the_next_phase_starts_from_the_best_weights_with_restore_best(
    restoring: tuple[SemanticTask, FifthEpoch, Path],
) -> None:
    _, fifth, folder = restoring
    best = torch.load(folder / "1.ckpt", weights_only=True)["state_dict"]
    third = torch.load(folder / "2.ckpt", weights_only=True)["state_dict"]
    assert equal(fifth.weights, {name.removeprefix("model."): tensor for name, tensor in best.items()})
    assert not equal(fifth.weights, {name.removeprefix("model."): tensor for name, tensor in third.items()})


def test_without_a_score_that_is_a_number_the_next_phase_starts_from_the_weights_that_are_there() -> None:
    task = tiny_task(plan=RESTORING)
    tiny_trainer(Scores(*[math.nan] * 4), ApplyTuningPlan(), max_epochs=4).fit(task, datamodule=tiny_data())
    assert task.timeline.plateaus == (2,)


def test_a_plateau_of_a_score_that_is_not_logged_is_an_error() -> None:
    plan = Plan(PLATEAU.rules, plateau=PlateauCriterion("val/los", "max", patience=2))
    with pytest.raises(ValueError, match=r"tuning.plateau.monitor='val/los' is not logged. Did you mean val/loss"):
        tiny_trainer(IoU(table=False), ApplyTuningPlan(), max_epochs=4).fit(
            tiny_task(plan=plan), datamodule=tiny_data()
        )


def test_the_rates_of_every_step_are_recorded() -> None:
    tuning = ApplyTuningPlan()
    task = tiny_task(plan=GRADUAL, lr=1e-3, schedule_name="constant", warmup=0)
    tiny_trainer(tuning, max_epochs=4).fit(task, datamodule=tiny_data())
    assert tuning.record is not None
    assert tuning.record.epochs == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5]
    assert tuning.record.names[-2:] == ["decoder", "head"]
    trained = [sum(rate == 1e-3 for rate in rates) for rates in tuning.record.rates]
    assert trained == [2, 2, 3, 3, 5, 5, 7, 7]
    assert tuning.record.boundaries == [1.0, 2.0, 3.0]


def test_a_phase_that_starts_at_a_plateau_has_its_own_rates_from_the_first_step() -> None:
    plan = Plan(
        PLATEAU.rules, restart_schedule=True, phase_lr=(1.0, 0.5), plateau=PlateauCriterion("fixed", "max", patience=2)
    )
    tuning, task = ApplyTuningPlan(), tiny_task(plan=plan, lr=1e-3, schedule_name="poly", warmup=0)
    scores = Scores(0.1, 0.3, 0.2, 0.3, 0.1, 0.1)
    tiny_trainer(scores, tuning, max_epochs=6).fit(task, datamodule=tiny_data())
    assert tuning.record is not None
    rates = [row[-1] for row in tuning.record.rates]
    assert rates[:8] == pytest.approx([1e-3 * (1 - step / 12) ** 0.9 for step in range(8)])
    assert rates[8:] == pytest.approx([0.5e-3 * (1 - step / 4) ** 0.9 for step in range(4)])


def test_a_plateau_lowers_the_rate_of_the_next_step() -> None:
    options = {"monitor": "fixed", "mode": "max", "patience": 1, "factor": 0.1}
    made = {"schedule_name": "plateau", "warmup": 0, "schedule_options": options, "lr": 1e-3}
    tuning = ApplyTuningPlan()
    tiny_trainer(Scores(0.3, 0.2, 0.4, 0.5), tuning, max_epochs=4).fit(tiny_task(**made), datamodule=tiny_data())
    assert tuning.record is not None
    assert [row[-1] for row in tuning.record.rates] == pytest.approx([1e-3] * 4 + [1e-4] * 4)


def test_a_task_that_was_resumed_trains_anew_with_a_schedule_that_has_seen_no_plateau() -> None:
    options = {"monitor": "val/iou", "patience": 1}
    task = tiny_task(schedule_name="plateau", schedule_options=options)
    state = {**schedule("plateau", 10, **options).state_dict(), "reductions": [4, 6]}
    task.on_load_checkpoint({"tuning": {"plateaus": [1], "schedule": state}})
    tiny_trainer(ApplyTuningPlan(), IoU()).fit(task, datamodule=tiny_data())
    assert task.timeline.plateaus == ()
    assert task.course is not None
    assert task.course.curve.state_dict()["reductions"] == []


def test_a_resumed_training_does_not_record_earlier_unfreezings_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny_trainer(ApplyTuningPlan(), Saves(tmp_path), max_epochs=4).fit(tiny_task(plan=GRADUAL), datamodule=tiny_data())
    caplog.clear()
    caplog.set_level(logging.INFO)
    tuning = ApplyTuningPlan()
    tiny_trainer(tuning, max_epochs=5).fit(
        tiny_task(plan=GRADUAL), datamodule=tiny_data(), ckpt_path=tmp_path / "3.ckpt", weights_only=True
    )
    assert tuning.record is not None
    assert tuning.record.boundaries == [1.0, 2.0, 3.0]
    assert "as in the checkpoint, unfroze backbone[4], backbone[3]" in caplog.text


def test_several_validations_an_epoch_count_as_one_plateau_and_keep_the_best(tmp_path: Path) -> None:
    class Counted(Scores):
        """Logs the next score at each validation."""

        def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            pl_module.log("fixed", self.values[0])
            self.values = self.values[1:]

    rules = (Rule("backbone", train=[["plateau", None]], stagger="plateau"), Rule("."))
    plan = Plan(rules, plateau=PlateauCriterion("fixed", "max", patience=1, restore_best=True))
    kept: list[dict[str, torch.Tensor]] = []

    class Keeps(pl.Callback):
        def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
            kept.append(weights(pl_module))

        def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if trainer.current_epoch == 2 and batch_idx == 0:
                self.began = weights(pl_module)

    task, keeps = tiny_task(plan=plan), Keeps()
    scores = Counted(0.5, 0.9, 0.1, 0.2, *([0.1] * 8))
    tiny_trainer(scores, ApplyTuningPlan(), keeps, max_epochs=6, val_check_interval=1).fit(task, datamodule=tiny_data())
    assert task.timeline.plateaus == (2, 3, 4, 5, 6)
    assert equal(keeps.began, kept[1])


def test_a_second_training_with_the_same_callback_starts_from_scratch() -> None:
    plan = Plan(PLATEAU.rules, plateau=PlateauCriterion("fixed", "max", patience=1, restore_best=True))
    tuning, task = ApplyTuningPlan(), tiny_task(plan=plan)
    tiny_trainer(Scores(0.5, 0.1, 0.1), tuning, max_epochs=3).fit(task, datamodule=tiny_data())
    assert task.timeline.plateaus == (2,)
    trainable = Trainable()
    tiny_trainer(Scores(0.5, 0.6, 0.7), tuning, trainable, max_epochs=3).fit(task, datamodule=tiny_data())
    assert task.timeline.plateaus == ()
    assert trainable.seen == [0, 0, 0]


def test_a_plateau_that_was_not_reached_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    tiny_trainer(Scores(0.1, 0.2, 0.3, 0.4), ApplyTuningPlan(), max_epochs=4).fit(
        tiny_task(plan=PLATEAU), datamodule=tiny_data()
    )
    assert "the plan waits for 1 plateaus of fixed, but the score had 0" in caplog.text


@pytest.mark.parametrize("cut", [0, 1])
def test_a_training_that_is_extended_has_the_rates_of_the_longer_one(tmp_path: Path, cut: int) -> None:
    class Rates(pl.Callback):
        def __init__(self) -> None:
            self.seen: dict[int, float] = {}

        def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: Any, optimizer: Any) -> None:
            self.seen[trainer.global_step] = optimizer.param_groups[0]["lr"]

    def fit(epochs: int, path: Path | None = None) -> dict[int, float]:
        rates = Rates()
        trainer = tiny_trainer(ApplyTuningPlan(), rates, Saves(tmp_path), max_epochs=epochs)
        trainer.fit(tiny_task(), datamodule=tiny_data(), ckpt_path=path, weights_only=True)
        return rates.seen

    fit(2)
    resumed = fit(4, tmp_path / f"{cut}.ckpt")
    whole = fit(4)
    assert len(whole) == 8
    assert resumed == {step: whole[step] for step in range(2 * cut + 2, 8)}


def test_a_training_with_max_steps_follows_its_schedule_to_the_end() -> None:
    tuning = ApplyTuningPlan()
    task = tiny_task(lr=1e-3, schedule_name="poly", warmup=0)
    tiny_trainer(tuning, max_epochs=10, max_steps=5).fit(task, datamodule=tiny_data())
    assert tuning.record is not None
    assert [row[-1] for row in tuning.record.rates] == pytest.approx([1e-3 * (1 - s / 5) ** 0.9 for s in range(5)])


def test_a_training_that_ends_before_an_unfreezing_is_rejected() -> None:
    with pytest.raises(PlanError, match="after 5 epochs, but the training has only 3"):
        tiny_trainer(ApplyTuningPlan(), max_epochs=10, max_steps=6).fit(
            tiny_task(plan=Plan((Rule("backbone", train=[[5, None]]), Rule(".")))), datamodule=tiny_data()
        )
