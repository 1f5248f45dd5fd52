"""Short trainings whose averaged weights are validated, saved, and resumed exactly."""

import copy
import logging
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from safetensors.torch import load_file
from torch import Tensor
from torch.optim.swa_utils import update_bn

import finetune
from finetune.callbacks import ApplyTuningPlan, Checkpoint, IoU
from finetune.callbacks.weight_averaging import EMA, SWA, Averaging
from finetune.checkpoints.saved_model import load_model
from finetune.tasks import SemanticTask
from tests.samples import SYNTHETIC
from tests.tasks.tiny_run import FROZEN, tiny_data, tiny_task, tiny_trainer

pytestmark = pytest.mark.usefixtures("without_figures")

State = dict[str, Tensor]


def snapshot(task: pl.LightningModule) -> State:
    return {name: tensor.detach().clone() for name, tensor in task.state_dict().items()}


def same(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Notes(pl.Callback):
    """Records the raw weights before the first step and after each one, those of each validation, and the last ones."""

    def __init__(self) -> None:
        self.raw: list[State] = []
        self.validated: list[State] = []
        self.ended: State = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.raw.append(snapshot(pl_module))

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == len(self.raw):
            self.raw.append(snapshot(pl_module))

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.validated.append(snapshot(pl_module))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.ended = snapshot(pl_module)


def trained(
    averaging: Averaging | None,
    *callbacks: pl.Callback,
    folder: Path | None = None,
    resume: Path | None = None,
    train: int = 16,
    task: SemanticTask | None = None,
    **options: Any,
) -> SemanticTask:
    """Train four steps an epoch and return the task; checkpoints are saved if there is a folder."""
    task = task or tiny_task()
    if folder is not None:
        callbacks = (*callbacks, IoU(table=False), Checkpoint())
        options |= {"default_root_dir": folder, "enable_checkpointing": True}
    averagings = [averaging] if averaging is not None else []
    trainer = tiny_trainer(ApplyTuningPlan(), *averagings, *callbacks, **{"max_epochs": 2, **options})
    trainer.fit(task, datamodule=tiny_data(train=train, val=1), ckpt_path=resume)
    return task


def read(folder: Path, name: str = "last.ckpt") -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / name, weights_only=True)


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "finetune.callbacks.weight_averaging"]


def parameters(task: pl.LightningModule, state: State) -> State:
    return {name: state[name] for name, _ in task.named_parameters()}


@pytest.mark.parametrize("accumulated", [1, 2])
def test_the_exponential_average_equals_a_loop_over_optimizer_steps(accumulated: int) -> None:
    notes = Notes()
    task = trained(EMA(decay=0.5), notes, max_epochs=3, accumulate_grad_batches=accumulated)
    assert len(notes.raw) - 1 == 12 // accumulated
    expected = {name: tensor.double() for name, tensor in parameters(task, notes.raw[0]).items()}
    for updates, raw in enumerate(notes.raw[1:]):
        decay = min(0.5, (1 + updates) / (10 + updates))
        expected = {name: decay * value + (1 - decay) * raw[name] for name, value in expected.items()}
    for name, value in parameters(task, task.state_dict()).items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-4, atol=1e-6)
        if name not in {f"model.{unused}" for unused in task.model.unused_parameters()}:
            assert not torch.equal(value, notes.raw[-1][name]), name


def test_the_equal_average_is_the_mean_of_the_steps_since_the_start() -> None:
    notes = Notes()
    task = trained(SWA(start=0.5), notes)
    for name, value in parameters(task, task.state_dict()).items():
        mean = torch.stack([raw[name].double() for raw in notes.raw[5:]]).mean(dim=0)  # steps 5 to 8 of 8
        torch.testing.assert_close(value.double(), mean, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("averaging", [EMA(), SWA(start=0)])
def test_the_weights_that_train_are_those_of_a_training_without_averages(averaging: Averaging) -> None:
    plain, noted = Notes(), Notes()
    trained(None, plain, val_check_interval=2)
    trained(averaging, noted, val_check_interval=2)
    assert len(plain.raw) == len(noted.raw) == 9
    assert all(same(one, other) for one, other in zip(plain.raw, noted.raw, strict=True))
    assert not any(same(one, other) for one, other in zip(plain.validated, noted.validated, strict=True))


def test_buffers_of_an_exponential_average_are_the_raw_ones() -> None:
    notes = Notes()
    task = trained(EMA(), notes)
    buffers = task.state_dict().keys() - parameters(task, task.state_dict()).keys()
    assert len(buffers) > 20
    for state in (notes.validated[-1], task.state_dict()):
        assert all(torch.equal(state[name], notes.raw[-1][name]) for name in buffers)
    assert any(not torch.equal(notes.raw[-1][name], notes.raw[0][name]) for name in buffers)


@pytest.mark.parametrize("averaging", [EMA(), SWA(start=0)])
def test_the_average_is_validated_and_saved_and_left_in_the_model(averaging: Averaging, tmp_path: Path) -> None:
    notes = Notes()
    task = trained(averaging, notes, folder=tmp_path)
    last, best = read(tmp_path), read(tmp_path, "best.ckpt")
    assert same(notes.validated[-1], last["state_dict"])
    assert same(notes.validated[best["epoch"]], best["state_dict"])
    assert same(last["state_dict"], notes.ended)
    assert same(last["state_dict"], snapshot(task))
    assert not same(last["state_dict"], notes.raw[-1])
    assert last["averaging"]["updates"] == 8
    assert all(torch.equal(value, notes.raw[-1][name]) for name, value in last["averaging"]["raw"].items())
    assert same(load_model(tmp_path).model.state_dict(), task_model(best["state_dict"]))


def task_model(state: State) -> State:
    return {name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")}


class SavesAfter(pl.Callback):
    """Saves in the middle of an epoch, after a given step."""

    def __init__(self, path: Path, step: int) -> None:
        self.path, self.step = path, step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def test_a_checkpoint_between_validations_holds_the_averages_too(tmp_path: Path) -> None:
    notes, path = Notes(), tmp_path / "step.ckpt"
    trained(EMA(), notes, SavesAfter(path, 3), val_check_interval=3, max_epochs=1)
    saved = torch.load(path, weights_only=True)
    assert same(saved["state_dict"], notes.validated[0])
    assert all(torch.equal(value, notes.raw[3][name]) for name, value in saved["averaging"]["raw"].items())


def test_a_checkpoint_after_the_training_holds_what_is_in_the_model(tmp_path: Path) -> None:
    notes, path = Notes(), tmp_path / "end.ckpt"
    task = trained(EMA(), notes)
    task.trainer.save_checkpoint(path)
    saved = torch.load(path, weights_only=True)
    assert same(saved["state_dict"], snapshot(task))
    assert all(torch.equal(value, notes.raw[-1][name]) for name, value in saved["averaging"]["raw"].items())


def test_averages_in_float32_are_stored_once(tmp_path: Path) -> None:
    trained(EMA(), folder=tmp_path)
    saved = read(tmp_path)
    average = saved["averaging"]["average"]
    assert all(value.data_ptr() == saved["state_dict"][name].data_ptr() for name, value in average.items())


def test_a_model_in_bfloat16_is_averaged_in_float32_and_validated_in_bfloat16(tmp_path: Path) -> None:
    notes = Notes()
    trained(EMA(), notes, folder=tmp_path, max_epochs=1, precision="bf16-true")
    saved = read(tmp_path)
    average = saved["averaging"]["average"]
    assert {value.dtype for value in average.values()} == {torch.float32}
    assert any(not torch.equal(value, value.bfloat16().float()) for value in average.values())
    assert all(torch.equal(saved["state_dict"][name], value.bfloat16()) for name, value in average.items())
    assert same(saved["state_dict"], notes.validated[-1])


@pytest.mark.parametrize("start", [1, 0.5])
def test_before_the_start_the_raw_weights_are_validated_and_saved(start: float, tmp_path: Path) -> None:
    notes, path = Notes(), tmp_path / "early.ckpt"
    trained(EMA(start=start), notes, SavesAfter(path, 4))
    assert same(notes.validated[0], notes.raw[4])
    early = torch.load(path, weights_only=True)
    assert "averaging" not in early
    assert same(early["state_dict"], notes.raw[4])
    expected = notes.raw[4]
    for updates, raw in enumerate(notes.raw[5:]):
        decay = (1 + updates) / (10 + updates)
        expected = {name: decay * value + (1 - decay) * raw[name] for name, value in expected.items()}
    name = "model.head.0.weight"
    torch.testing.assert_close(notes.validated[1][name], expected[name], rtol=1e-4, atol=1e-6)


class Stops(pl.Callback):
    """Ends the training after a number of epochs, as if it had been interrupted."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = trainer.current_epoch + 1 == self.epochs


@pytest.mark.parametrize(
    ("make", "start"),
    [
        (EMA, 0),
        (SWA, 0.4),
        pytest.param(EMA, 2, marks=pytest.mark.slow),
        pytest.param(SWA, 0.75, marks=pytest.mark.slow),
    ],
)
def test_a_resumed_training_ends_like_an_uninterrupted_one(make: Any, start: float, tmp_path: Path) -> None:
    whole = trained(make(start=start), folder=tmp_path / "whole", max_epochs=3)
    trained(make(start=start), Stops(2), folder=tmp_path / "first", max_epochs=3)
    middle = tmp_path / "first" / "checkpoints" / "last.ckpt"
    assert torch.load(middle, weights_only=True)["epoch"] == 1
    resumed = trained(make(start=start), folder=tmp_path / "second", resume=middle, max_epochs=3)
    assert same(snapshot(resumed), snapshot(whole))
    one, other = read(tmp_path / "second"), read(tmp_path / "whole")
    assert same(one["state_dict"], other["state_dict"])
    assert one["averaging"]["updates"] == other["averaging"]["updates"]
    assert same(one["averaging"]["raw"], other["averaging"]["raw"])
    assert same(one["averaging"]["average"], other["averaging"]["average"])


def test_an_equal_average_starts_again_if_the_training_becomes_longer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "finetune.callbacks.weight_averaging")
    trained(SWA(start=0.5), folder=tmp_path, max_epochs=2)
    averaging = SWA(start=0.5)
    longer = trained(averaging, resume=tmp_path / "checkpoints" / "last.ckpt", max_epochs=6)
    assert "SWA: the training is longer now, so the average starts again at 0.5" in messages(caplog)
    assert averaging.average.updates == longer.trainer.global_step // 2


@pytest.mark.parametrize("name", ["checkpoints/last.ckpt", "end.ckpt"])  # before the epoch's last hooks, and after
def test_a_finished_training_that_is_resumed_leaves_the_averaged_weights(name: str, tmp_path: Path) -> None:
    task = trained(SWA(start=0), folder=tmp_path, max_epochs=1)
    task.trainer.save_checkpoint(tmp_path / "end.ckpt")
    again = trained(SWA(start=0), resume=tmp_path / name, max_epochs=1)
    assert again.trainer.global_step == 4
    assert same(snapshot(again), snapshot(task))


def test_a_checkpoint_with_averages_is_not_resumed_by_another_average(tmp_path: Path) -> None:
    trained(EMA(), folder=tmp_path, max_epochs=1)
    with pytest.raises(ValueError, match="only EMA can resume from it"):
        trained(SWA(), resume=tmp_path / "checkpoints" / "last.ckpt")


def test_a_checkpoint_with_averages_is_not_resumed_without_any(tmp_path: Path) -> None:
    trained(EMA(), folder=tmp_path, max_epochs=1)
    with pytest.raises(ValueError, match=r"only EMA can resume from it\. Set average=ema"):
        trained(None, resume=tmp_path / "checkpoints" / "last.ckpt")


def test_the_average_starts_from_a_checkpoint_without_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "finetune.callbacks.weight_averaging")
    trained(None, Stops(1), folder=tmp_path)
    notes, averaging = Notes(), EMA()
    notes.raw = [{}] * 4  # the steps before
    task = trained(averaging, notes, resume=tmp_path / "checkpoints" / "last.ckpt")
    assert messages(caplog)[0] == "EMA: the checkpoint has no average; it starts from the weights of step 4"
    assert averaging.average.updates == 4
    assert len(notes.raw) == 9
    name = "model.head.0.weight"
    expected = notes.raw[4][name]
    for updates, raw in enumerate(notes.raw[5:]):
        decay = (1 + updates) / (10 + updates)
        expected = decay * expected + (1 - decay) * raw[name]
    torch.testing.assert_close(task.state_dict()[name], expected, rtol=1e-4, atol=1e-6)


def test_a_separate_validation_or_test_uses_the_averaged_weights_and_changes_nothing(tmp_path: Path) -> None:
    notes, averaging = Notes(), EMA()
    task = trained(averaging, notes, folder=tmp_path)
    saved, data = read(tmp_path)["state_dict"], tiny_data(val=1)
    data.test = data.val
    fresh = tiny_task(seed=1)
    path = tmp_path / "checkpoints" / "last.ckpt"
    tiny_trainer(EMA()).validate(fresh, datamodule=data, ckpt_path=path, verbose=False)
    assert same(snapshot(fresh), saved)
    task.load_state_dict(notes.raw[0])
    task.trainer.validate(task, datamodule=data, verbose=False)
    task.trainer.test(task, datamodule=data, verbose=False)
    assert same(notes.validated[-1], notes.raw[0])
    assert same(snapshot(task), notes.raw[0])


class SavesInValidation(pl.Callback):
    """Saves a checkpoint inside each validation, and records the raw weights before it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.raw: State = {}

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        self.raw = snapshot(pl_module)

    def on_validation_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        trainer.save_checkpoint(self.path, weights_only=False)


def test_a_checkpoint_from_inside_a_validation_has_the_raw_weights_unlike_lightnings(tmp_path: Path) -> None:
    ours, lightnings = SavesInValidation(tmp_path / "ours.ckpt"), SavesInValidation(tmp_path / "lightning.ckpt")
    trained(EMA(), ours, max_epochs=1)
    raw = torch.load(ours.path, weights_only=True)["averaging"]["raw"]
    assert all(torch.equal(value, ours.raw[name]) for name, value in raw.items())
    trained(None, EMAWeightAveraging(use_buffers=False, decay=0.5), lightnings, max_epochs=1)
    saved = torch.load(lightnings.path, weights_only=True)
    assert same(saved["state_dict"], lightnings.raw)  # swapped
    assert not same(saved["current_model_state"], lightnings.raw)


class Unfreezes(pl.Callback):
    """Freezes the decoder until the second epoch."""

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        pl_module.model.decoder.requires_grad_(False)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        pl_module.model.decoder.requires_grad_(trainer.current_epoch > 0)


def test_parameters_that_unfreeze_later_are_averaged_from_then_on() -> None:
    notes, averaging = Notes(), EMA()
    kept: list[int] = []

    class Counts(pl.Callback):
        def on_validation_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
            kept.append(sum(name.startswith("model.decoder.") for name in averaging.average.values))

    task = tiny_task()
    tiny_trainer(Unfreezes(), averaging, notes, Counts(), max_epochs=3).fit(task, datamodule=tiny_data(train=16, val=1))
    tensors = len(list(task.model.decoder.parameters()))
    assert kept == [0, tensors, tensors]
    expected = {name: tensor.double() for name, tensor in parameters(task, notes.raw[0]).items()}
    for updates, raw in enumerate(notes.raw[1:]):
        decay = (1 + updates) / (10 + updates)
        expected = {name: decay * value + (1 - decay) * raw[name] for name, value in expected.items()}
    assert not torch.equal(notes.raw[-1]["model.decoder.p5.weight"], notes.raw[0]["model.decoder.p5.weight"])
    assert torch.equal(notes.raw[4]["model.decoder.p5.weight"], notes.raw[0]["model.decoder.p5.weight"])
    for name, value in parameters(task, task.state_dict()).items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-4, atol=1e-6)


def norm_buffers(state: State) -> State:
    return {name: value for name, value in state.items() if "running_" in name}


@pytest.mark.parametrize("options", [{}, {"limit_val_batches": 0}], ids=["validated", "not validated"])
def test_the_equal_average_has_batch_norm_statistics_of_its_own(options: dict[str, Any]) -> None:
    notes = Notes()
    task = trained(SWA(), notes, **options)
    expected = copy.deepcopy(task.model)
    loader = tiny_data(train=16).train_dataloader()
    images = [expected.normalize(batch["image"]) for batch in loader]
    update_bn(images, expected)  # the dropout of this network is after all batch norms
    assert len(images) == 4
    torch.testing.assert_close(task.model.state_dict(), expected.state_dict(), rtol=1e-4, atol=1e-5)
    raw = norm_buffers(notes.raw[-1])
    assert len(raw) > 20
    assert not any(
        torch.allclose(value, raw[name], rtol=1e-3) for name, value in norm_buffers(task.state_dict()).items()
    )


def test_frozen_batch_norms_keep_their_statistics_without_a_pass_over_the_data() -> None:
    task = tiny_task(plan=FROZEN)
    before = norm_buffers(snapshot(task))
    data = tiny_data(train=16, val=1)
    made: list[int] = []
    loader = data.train_dataloader
    data.train_dataloader = lambda: made.append(1) or loader()
    tiny_trainer(ApplyTuningPlan(), SWA(start=0), max_epochs=2).fit(task, datamodule=data)
    assert len(made) == 1
    assert same(norm_buffers(task.state_dict()), before)


def test_statistics_are_gathered_once_for_each_average_and_run_no_extra_epoch() -> None:
    data, notes = tiny_data(train=16, val=1), Notes()
    made: list[int] = []
    loader = data.train_dataloader
    data.train_dataloader = lambda: made.append(1) or loader()
    task = tiny_task()
    tiny_trainer(ApplyTuningPlan(), SWA(start=1), notes, max_epochs=3).fit(task, datamodule=data)
    assert len(made) == 1 + 2  # the training's own, and a validation of each averaged epoch
    assert len(notes.validated) == 3
    assert (task.trainer.current_epoch, task.trainer.global_step) == (3, 12)


def test_statistics_need_a_data_module() -> None:
    data = tiny_data(val=1)
    loaders = {"train_dataloaders": data.train_dataloader(), "val_dataloaders": data.val_dataloader()}
    with pytest.raises(TypeError, match=r"Call fit\(task, datamodule=\.\.\.\)"):
        tiny_trainer(ApplyTuningPlan(), SWA(start=0)).fit(tiny_task(), **loaders)
    tiny_trainer(ApplyTuningPlan(), EMA()).fit(tiny_task(), **loaders)


def test_a_training_that_ends_before_the_start_says_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "finetune.callbacks.weight_averaging")
    notes = Notes()
    task = trained(SWA(start=1), Stops(1), notes)
    assert messages(caplog) == ["SWA: the training ended before start=1, so the weights are raw"]
    assert same(snapshot(task), notes.raw[-1])


@pytest.mark.parametrize("start", [1.0, 2.5, -1, -0.1, float("nan")])
def test_a_start_that_is_neither_epoch_nor_fraction_is_rejected(start: float) -> None:
    with pytest.raises(ValueError, match="expected an epoch as a whole number from 0"):
        SWA(start=start)


@pytest.mark.parametrize("decay", [1.0, -0.1, float("nan")])
def test_a_decay_outside_of_0_to_1_is_rejected(decay: float) -> None:
    with pytest.raises(ValueError, match="expected 0 or more and below 1"):
        EMA(decay=decay)


def test_a_start_after_the_end_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"SWA starts at epoch 2, counted from 0, but the training has 2 epochs"):
        trained(SWA(start=2))


def test_two_averages_at_once_are_rejected() -> None:
    with pytest.raises(ValueError, match="EMA and SWA would both average the weights"):
        trained(EMA(), SWA())


class WritesState(pl.Callback):
    """Saves the final weights of each rank."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        torch.save(pl_module.state_dict(), self.folder / f"{trainer.global_rank}.pt")


@pytest.mark.slow
@pytest.mark.parametrize("averaging", [EMA(), SWA(start=0)], ids=["EMA", "SWA"])
def test_two_processes_end_with_the_same_averages(averaging: Averaging, tmp_path: Path) -> None:
    trained(averaging, WritesState(tmp_path), devices=2, strategy="ddp_spawn", max_epochs=1)
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert len(one) > 40
    assert same(one, other)


@pytest.mark.slow
def test_without_validations_the_last_checkpoint_has_statistics_of_the_averaged_weights(folder: Path) -> None:
    run = finetune.train(
        *SYNTHETIC, "average=swa", "callbacks.average.start=0.5", "trainer.max_epochs=4", "+trainer.limit_val_batches=0"
    )
    content = torch.load(run.best, weights_only=True)
    assert run.best.name == "last.ckpt"
    means = [name for name in content["state_dict"] if name.endswith("running_mean")]
    raw = content["averaging"]["raw"]
    assert all(not torch.equal(content["state_dict"][name], raw[name]) for name in means if name in raw)
    assert sum(name in raw for name in means) > 5
    saved = load_file(run.folder / "model" / "model.safetensors")
    assert all(torch.equal(saved[name.removeprefix("model.")], content["state_dict"][name]) for name in means)
    assert finetune.evaluate(f"run={run.best}").scores == run.scores


@pytest.mark.slow
def test_a_best_checkpoint_from_before_the_average_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = ("average=swa", "trainer.max_epochs=3", "trainer.check_val_every_n_epoch=2")
    run = finetune.train(*SYNTHETIC, *overrides)
    assert "averaging" not in torch.load(run.best, weights_only=True)
    assert "the best checkpoint, which becomes the model, is from before the average started" in capsys.readouterr().out


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_statistics_are_gathered_from_augmented_images_in_any_precision(precision: str, folder: Path) -> None:
    # no rate: all weights stay the same
    common = ("augment=strong", "augment.crop=32", "augment.blur=1", "optimizer.lr=0", f"trainer.precision={precision}")
    average = ("average=swa", "callbacks.average.start=0")
    averaged, raw = (
        load_file(
            finetune.train(*SYNTHETIC, *common, *more, f"output=run_{len(more)}").folder / "model/model.safetensors"
        )
        for more in (average, ())
    )
    changed = {name.rpartition(".")[2] for name in raw if not torch.equal(averaged[name], raw[name])}
    assert changed == {"running_mean", "running_var"}
