"""Trainings with a bad step, against trainings in which that step is undone by other means."""

import copy
import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import Dataset

from finetune.callbacks import ApplyTuningPlan, NonFiniteError, NonFiniteGuard, non_finite_guard
from finetune.data import TrainSampler
from finetune.data.dataset import Sample, SampleKey
from finetune.data.module import SegmentationData
from finetune.engine.fsdp import local_shard
from finetune.tasks import SemanticTask
from tests.engine.ranks import run_ranks
from tests.synthetic import SyntheticDataset
from tests.tasks.tiny_run import tiny_data, tiny_model, tiny_trainer

BROKEN = "decoder.p4.skip_conv.weight"
IMAGES, BATCH = 16, 4


class Breaks(SemanticTask):
    """A task with bad batches; it keeps the weights and statistics from before each step."""

    mistake = "constant"
    at: tuple[int, ...] = ()  # batches, of all epochs

    def is_bad(self, batch_idx: int) -> bool:
        return self.current_epoch * self.trainer.num_training_batches + batch_idx in self.at

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        if batch_idx % self.trainer.accumulate_grad_batches == 0:
            self.before = copy.deepcopy(self.model.state_dict())

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        if not self.is_bad(batch_idx):
            return super().training_step(batch, batch_idx)
        if self.mistake == "input":  # spoils the statistics of every batch norm
            normalize = self.model.normalize
            self.model.normalize = lambda image: normalize(image) * math.inf
            loss = super().training_step(batch, batch_idx)
            del self.model.normalize
            return loss
        loss = super().training_step(batch, batch_idx)
        weight = dict(self.model.named_parameters())[BROKEN]
        change = {
            "constant": math.inf,  # whose gradient is zero
            "factor": loss * math.inf,
            "gradient": (local_shard(weight) * 0).sqrt().sum(),  # zero, with a slope that is infinite
            "huge": weight.sum() * 1e30,  # finite, but its square is not
        }
        return loss + change[self.mistake]


class Undone(Breaks):
    """A task that undoes bad steps by loading the weights from before them."""

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, closure: Any = None) -> None:
        since = range(
            batch_idx // self.trainer.accumulate_grad_batches * self.trainer.accumulate_grad_batches, batch_idx + 1
        )
        if any(map(self.is_bad, since)):
            closure()
            optimizer.zero_grad()
            self.model.load_state_dict(self.before)
        else:
            super().optimizer_step(epoch, batch_idx, optimizer, closure)


def breaking_task(mistake: str, at: tuple[int, ...], task: type[Breaks] = Breaks) -> Breaks:
    made = task(tiny_model(), lr=3e-3)
    made.mistake, made.at = mistake, at
    return made


def fit(
    task: SemanticTask, *callbacks: pl.Callback, data: Any = None, ckpt_path: Any = None, **options: Any
) -> pl.Trainer:
    trainer = tiny_trainer(ApplyTuningPlan(), *callbacks, **{"limit_val_batches": 0, **options})
    trainer.fit(task, datamodule=data or tiny_data(IMAGES, batch_size=BATCH), ckpt_path=ckpt_path)
    return trainer


def stopped(mistake: str, at: tuple[int, ...], skip: int = 0, **options: Any) -> tuple[str, Breaks]:
    """Return the error message of a training, and its task."""
    task = breaking_task(mistake, at)
    with pytest.raises(NonFiniteError) as error:
        fit(task, NonFiniteGuard(skip), **options)
    return str(error.value), task


def images(epoch: int, batch: int) -> str:
    """Return the image names of a batch, in order."""
    sampler = TrainSampler(IMAGES, seed=0)
    sampler.set_epoch(epoch)
    return ", ".join(f"train_{key.index:05d}" for key in list(sampler)[batch * BATCH : (batch + 1) * BATCH])


def same(one: Any, other: Any) -> bool:
    """Return whether two states are bit-identical."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


@pytest.mark.parametrize("mistake", ["constant", "factor", "input", "gradient"])
def test_it_stops_at_the_bad_step_and_changes_nothing(mistake: str) -> None:
    _, task = stopped(mistake, at=(2,))
    assert task.trainer.global_step == 2
    assert same(task.model.state_dict(), task.before)


def test_a_bad_loss_is_reported_with_step_images_and_next_moves() -> None:
    message, _ = stopped("factor", at=(6,), max_epochs=2)
    assert message.startswith(
        f"epoch 2, step 7: the loss is inf. Its images: {images(1, 2)}. The step has changed no weight"
    )
    assert "lower optimizer.lr (the rate is 0.00" in message
    assert "set trainer.gradient_clip_val=1.0" in message
    assert "callbacks.non_finite.max_skipped_steps=3" in message
    assert "precision" not in message


def test_the_next_moves_depend_on_the_settings() -> None:
    message, _ = stopped("factor", at=(0,), gradient_clip_val=0.5, precision="bf16-mixed")
    assert "lower trainer.gradient_clip_val=0.5" in message
    assert "set trainer.precision=32-true instead of bf16-mixed" in message


def test_a_bad_gradient_is_reported_with_its_layer_and_the_finite_ones() -> None:
    message, task = stopped("gradient", at=(1,))
    parameters = sum(p.requires_grad for p in task.model.parameters())
    assert f"but 1 of {parameters} parameters got a gradient that is not finite: {BROKEN} (in decoder; " in message
    assert "finite in backbone[0], backbone[1]," in message
    assert "head)" in message
    assert images(0, 1) in message
    loss = float(message.split("the loss is ")[1].split(",")[0])
    assert 0 < loss < 10


def test_images_without_names_are_reported_by_index() -> None:
    class Nameless(Dataset[Sample]):
        samples = SyntheticDataset(IMAGES, 32)

        def __len__(self) -> int:
            return IMAGES

        def __getitem__(self, key: SampleKey) -> Sample:
            return self.samples[key]

    data = SegmentationData(Nameless(), SyntheticDataset(2, 32, split="val"), batch_size=2)
    message, _ = stopped("factor", at=(0,), data=data)
    first, second = (key.index for key in list(TrainSampler(IMAGES, seed=0))[:2])
    assert f"Its images: index {first}, index {second}." in message


def test_of_many_images_only_some_are_named() -> None:
    message, _ = stopped("factor", at=(0,), data=tiny_data(24, batch_size=24))
    assert message.split("Its images: ")[1].count("train_") == 20
    assert " and 4 more." in message


@pytest.mark.parametrize("mistake", ["constant", "input", "gradient"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_skipped_step_equals_an_undone_step(mistake: str, accumulate: int) -> None:
    at = (2, 6)
    options: dict[str, Any] = {"max_epochs": 2, "accumulate_grad_batches": accumulate, "gradient_clip_val": 1.0}
    skipping, undone = breaking_task(mistake, at), breaking_task(mistake, at, Undone)
    ours, theirs = fit(skipping, NonFiniteGuard(max_skipped_steps=1), **options), fit(undone, **options)
    assert ours.global_step == theirs.global_step == 8 // accumulate
    assert same(skipping.model.state_dict(), undone.model.state_dict())
    assert same(ours.optimizers[0].state_dict(), theirs.optimizers[0].state_dict())
    assert all(value.isfinite().all() for value in skipping.model.state_dict().values())
    assert skipping.train_loss is not None
    assert skipping.train_loss.isfinite()


def test_of_accumulated_batches_only_the_bad_one_is_named() -> None:
    message, task = stopped("constant", at=(2,), accumulate_grad_batches=2)
    assert f"epoch 1, step 2: the loss is inf. Its images: {images(0, 2)}." in message
    assert same(task.model.state_dict(), task.before)
    both, _ = stopped("gradient", at=(2,), accumulate_grad_batches=2)
    assert f"{images(0, 2)}, {images(0, 3)}" in both


def test_a_skipped_step_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(non_finite_guard.logger, "warning", warnings.append)
    monkeypatch.setattr(rank_zero_only, "rank", 0)  # whatever the tests before have left
    fit(breaking_task("constant", at=(1,)), NonFiniteGuard(max_skipped_steps=2))
    (message,) = warnings
    assert images(0, 1) in message
    assert "The step is skipped, 1 of at most 2 in a row." in message


def test_more_bad_steps_in_a_row_than_allowed_stop_it() -> None:
    message, task = stopped("constant", at=(1, 2, 3), skip=2)
    assert "step 4" in message
    assert "max_skipped_steps=3" not in message
    assert same(task.model.state_dict(), task.before)
    fit(breaking_task("constant", at=(0, 1, 3)), NonFiniteGuard(max_skipped_steps=2))  # a good one between them


def test_a_resumed_training_continues_to_count(tmp_path: Path) -> None:
    def made() -> Breaks:
        return breaking_task("constant", at=(2, 3, 4))

    fit(made(), NonFiniteGuard(max_skipped_steps=2)).save_checkpoint(tmp_path / "two.ckpt", weights_only=False)
    with pytest.raises(NonFiniteError, match="epoch 2, step 5"):
        fit(made(), NonFiniteGuard(max_skipped_steps=2), ckpt_path=tmp_path / "two.ckpt", max_epochs=2)
    guard = NonFiniteGuard(max_skipped_steps=2)
    fit(breaking_task("constant", at=(2,)), guard)
    assert guard.state_dict() == {}  # the last step was good


def test_a_batch_of_ignored_pixels_only_is_not_bad() -> None:
    class Ignored(SyntheticDataset):
        def __getitem__(self, key: Any) -> Any:
            sample = super().__getitem__(key)
            return {**sample, "mask": torch.full_like(sample["mask"], 255)}

    data = SegmentationData(Ignored(8, 32), SyntheticDataset(2, 32, split="val"), batch_size=4)
    assert fit(breaking_task("constant", at=()), NonFiniteGuard(), data=data).global_step == 2


def test_a_norm_that_overflows_is_not_bad() -> None:
    assert fit(breaking_task("huge", at=(3,)), NonFiniteGuard()).global_step == 4


@pytest.mark.parametrize("scale", [2.0**10, 2.0**100])
def test_infinite_scaled_gradients_are_left_to_the_scaler(scale: float) -> None:
    def plugin() -> MixedPrecision:
        return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))

    task = breaking_task("constant", at=())
    start = copy.deepcopy(task.model.state_dict())
    data = tiny_data(4, batch_size=2)  # float16 is slow on a CPU
    trainer = fit(task, NonFiniteGuard(), data=data, plugins=plugin())
    assert (trainer.precision_plugin.scaler.get_scale() < scale) == (scale > 1e20)
    moved = [name for name, p in task.model.named_parameters() if not torch.equal(p, start[name])]
    assert bool(moved) == (scale < 1e20)
    for mistake in ("constant", "input"):
        message, task = stopped(mistake, at=(1,), data=data, plugins=plugin())
        assert "step 2: the loss is " in message
        assert same(task.model.state_dict(), task.before)
    skipping = breaking_task("constant", at=(1,))
    trainer = fit(skipping, NonFiniteGuard(max_skipped_steps=1), data=data, plugins=plugin())
    assert all(value.isfinite().all() for value in skipping.model.state_dict().values())


@pytest.mark.parametrize("skip", [-1, 1.5, True, "2"])
def test_a_number_of_skipped_steps_that_is_no_count_is_rejected(skip: Any) -> None:
    with pytest.raises(ValueError, match=rf"max_skipped_steps={skip}; expected a whole number"):
        NonFiniteGuard(skip)


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    from tests.callbacks.guarded_ranks import run_cases  # which imports this module

    return run_ranks(run_cases, 2)


@pytest.mark.parametrize("case", ["ddp/constant/0", "ddp/gradient/0", "ddp/input/0", "fsdp2/constant/0"])
def test_two_ranks_stop_together_if_one_has_a_bad_step(ranks: list[dict[str, Any]], case: str) -> None:
    first, second = (rank[case] for rank in ranks)
    assert first["message"] == second["message"] != ""
    assert first["moved"] == second["moved"] == [True]
    keys = list(TrainSampler(12, seed=0, rank=1, world_size=2))[2:4]  # of the second rank alone
    assert ("Its images: " + ", ".join(f"train_{key.index:05d}" for key in keys) in first["message"]) == (
        "gradient" not in case
    )


@pytest.mark.parametrize("case", ["ddp/constant/1", "fsdp2/gradient/1"])
def test_two_ranks_skip_together_if_one_has_a_bad_step(ranks: list[dict[str, Any]], case: str) -> None:
    first, second = (rank[case] for rank in ranks)
    assert (first["message"], second["message"]) == ("", "")
    assert first["moved"] == second["moved"] == [True, False, True]
    for name, tensor in first["state"].items():
        assert torch.equal(tensor, second["state"][name]), name
