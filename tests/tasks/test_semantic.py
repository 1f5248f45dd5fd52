"""Short trainings that must come out equal, or unchanged, to the bit."""

from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from finetune.callbacks import ApplyTuningPlan, IoU
from finetune.data import CLASS_NAMES, SampleKey
from finetune.data.dataset import Sample
from finetune.data.module import SegmentationData
from finetune.losses import LOSSES, CEDice, CrossEntropy
from finetune.models import Segmenter
from finetune.tasks import SemanticTask
from finetune.tasks.loss_mean import LossMean
from finetune.tuning.plan import Plan, PlanError, Rule
from finetune.tuning.schedules import schedule
from tests.synthetic import SyntheticDataset
from tests.tasks.tiny_run import FROZEN, Sizes, tiny_data, tiny_model, tiny_task, tiny_trainer


def trained(data: SegmentationData | None = None, *callbacks: pl.Callback, **options: Any) -> SemanticTask:
    """Return a task after a short training; options of the trainer, and of the task under `task`."""
    task = tiny_task(**options.pop("task", {}))
    tiny_trainer(ApplyTuningPlan(), *callbacks, **options).fit(task, datamodule=data or tiny_data())
    return task


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def moved(module: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, tensor in module.state_dict().items() if not torch.equal(tensor, before[name])}


def validated(batch_size: int, ignore_index: int = 255) -> tuple[dict[str, float], Tensor]:
    """Return what a validation logs, and its confusion matrix."""
    task = tiny_task(ignore_index=ignore_index)
    logged = tiny_trainer(IoU(table=False)).validate(task, datamodule=tiny_data(batch_size=batch_size), verbose=False)[
        0
    ]
    return logged, task.total_counts["confusion"]


@pytest.mark.parametrize("batch_size", [2, 4, 7])
def test_validation_does_not_depend_on_the_batch_size(batch_size: int) -> None:
    (one, matrix_of_one), (many, matrix_of_many) = validated(1), validated(batch_size)
    assert matrix_of_one.sum() == sum((32 * 48, 40 * 24, 37 * 33)[index % 3] for index in range(7))
    assert torch.equal(matrix_of_one, matrix_of_many)
    assert many["val/loss"] == pytest.approx(one["val/loss"], abs=1e-6)


def test_validation_loss_and_matrix_are_those_of_a_loop_over_single_images() -> None:
    task, loss = tiny_task(), CEDice()
    losses, matrix = [], np.zeros((5, 5), dtype=np.int64)
    for index in range(7):
        sample = Sizes(7, split="val")[index]
        with torch.no_grad():
            logits = task.model.eval()(task.model.normalize(sample["image"][None]))
        losses.append(float(loss(logits, sample["mask"][None])))
        np.add.at(matrix, (sample["mask"].numpy(), logits[0].argmax(0).numpy()), 1)
    logged, counted = validated(4)
    assert logged["val/loss"] == pytest.approx(np.mean(losses), abs=1e-6)
    assert counted.tolist() == matrix.tolist()


def test_validation_runs_in_eval_mode_and_leaves_the_model_as_it_was() -> None:
    task = tiny_task()
    before = snapshot(task)
    tiny_trainer().validate(task, datamodule=tiny_data(), verbose=False)
    assert not moved(task, before)


def test_a_label_to_ignore_counts_for_nothing() -> None:
    _, with_all = validated(4)
    _, without = validated(4, ignore_index=0)
    assert without.sum() == with_all[1:].sum()
    assert not without[0].any()
    assert torch.equal(without[1:], with_all[1:])


@pytest.mark.parametrize("options", [{}, {"val_check_interval": 1, "check_val_every_n_epoch": None}])
def test_a_frozen_backbone_is_bit_identical_after_epochs_with_validations(options: dict[str, Any]) -> None:
    task = tiny_task(plan=FROZEN)
    backbone, rest = snapshot(task.model.backbone), snapshot(task.model.decoder)
    tiny_trainer(ApplyTuningPlan(), max_epochs=2, **options).fit(task, datamodule=tiny_data())
    assert not moved(task.model.backbone, backbone)
    assert moved(task.model.decoder, rest)
    assert not any(module.training for module in task.model.backbone.modules())


class Intruder(pl.Callback):
    """Something that calls train() on the whole model, as libraries do."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.train()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.train()


def test_a_frozen_backbone_survives_a_call_of_train_by_somebody_else() -> None:
    task = tiny_task(plan=FROZEN)
    backbone = snapshot(task.model.backbone)
    tiny_trainer(Intruder(), ApplyTuningPlan(), max_epochs=2).fit(task, datamodule=tiny_data())
    assert not moved(task.model.backbone, backbone)


def test_everything_but_the_unused_moves_when_everything_trains() -> None:
    task = tiny_task()
    before = snapshot(task.model)
    tiny_trainer(ApplyTuningPlan(), max_epochs=2).fit(task, datamodule=tiny_data())
    still = {name for name, _ in task.model.named_parameters()} - moved(task.model, before)
    assert still == task.model.unused_parameters()


def test_unused_parameters_are_in_no_group_and_require_no_gradient() -> None:
    task = trained()
    unused = task.model.unused_parameters()
    assert {name for name, p in task.model.named_parameters() if not p.requires_grad} == unused != set()
    grouped = {id(p) for group in task.trainer.optimizers[0].param_groups for p in group["params"]}
    assert grouped == {id(p) for name, p in task.model.named_parameters() if name not in unused}


def test_a_rule_for_unused_parameters_only_is_refused() -> None:
    with pytest.raises(PlanError, match=r"\['model.fc'\] match no parameter"):
        tiny_task(plan=Plan((Rule("model.fc", train=False), Rule("."))))


def weights(**options: Any) -> dict[str, Tensor]:
    return snapshot(trained(max_epochs=2, **options).model)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    first = weights()
    torch.manual_seed(99)  # a seed that somebody else has set changes nothing
    again, other = weights(), weights(task={"seed": 1})
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert any(not torch.equal(tensor, other[name]) for name, tensor in first.items())


def test_dropout_of_a_step_does_not_depend_on_the_validation_before_it() -> None:
    class Draws(pl.Callback):
        def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            torch.rand(100)

    task, other = tiny_task(), tiny_task()
    tiny_trainer(ApplyTuningPlan(), max_epochs=2).fit(task, datamodule=tiny_data())
    tiny_trainer(ApplyTuningPlan(), Draws(), max_epochs=2).fit(other, datamodule=tiny_data())
    assert not moved(task.model, snapshot(other.model))


class Rates(pl.Callback):
    """Notes the learning rate of every group for every optimizer step."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.steps: list[list[float]] = []

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: Any, optimizer: torch.optim.Optimizer) -> None:
        self.names = [group["name"] for group in optimizer.param_groups]
        self.steps.append([group["lr"] for group in optimizer.param_groups])


@pytest.mark.parametrize("accumulated", [1, 2])
@pytest.mark.parametrize(("name", "warmup"), [("poly", 0.25), ("cosine", 1), ("one_cycle", 0.5)])
def test_learning_rates_follow_the_schedule_in_a_constant_ratio(name: str, warmup: float, accumulated: int) -> None:
    plan = Plan((Rule("backbone", lr_scale=0.1), Rule("decoder"), Rule("head", lr_scale=10)))
    rates = Rates()
    task = {"plan": plan, "lr": 1e-3, "schedule_name": name, "warmup": warmup}
    data = tiny_data(train=16, val=1)
    trained(data, rates, max_epochs=2, accumulate_grad_batches=accumulated, task=task)
    steps = 8 // accumulated
    factor = schedule(name, steps, warmup)
    assert len(rates.steps) == steps
    scale = {"backbone": 0.1, "decoder": 1.0, "head": 10.0}
    for step, lrs in enumerate(rates.steps):
        expected = [1e-3 * scale[group.split(":")[0]] * factor(step) for group in rates.names]
        assert lrs == pytest.approx(expected, rel=1e-9)
    assert len({lrs[0] for lrs in rates.steps}) > 2


@pytest.mark.parametrize("accumulated", [4, 99])
def test_a_last_step_of_fewer_batches_is_the_mean_over_them(accumulated: int) -> None:
    """Two batches in one step change the weights equally, whether a step may have two, four or more of them."""
    options = {"optimizer": "momentum", "optimizer_options": {"momentum": 0}, "lr": 0.1, "weight_decay": 0.0}
    options |= {"schedule_name": "constant", "warmup": 0, "l1": 1e-4}
    tasks = [
        trained(tiny_data(train=8, val=1), accumulate_grad_batches=batches, task=dict(options))
        for batches in (2, accumulated)
    ]
    start = tiny_task(**options)
    for (name, full), short, before in zip(
        tasks[0].named_parameters(), tasks[1].parameters(), start.parameters(), strict=True
    ):
        torch.testing.assert_close(short - before, full - before, rtol=1e-4, atol=1e-7, msg=name)
    assert any(not torch.equal(a, b) for a, b in zip(tasks[0].parameters(), start.parameters(), strict=True))


class Ignored(SyntheticDataset):
    """Images without a single pixel that counts."""

    def __getitem__(self, key: int | SampleKey) -> Sample:
        sample = super().__getitem__(key)
        return {**sample, "mask": torch.full_like(sample["mask"], 255)}


@pytest.mark.parametrize("loss", ["cross_entropy", "dice", "ce_dice", "focal"])
def test_a_batch_of_ignored_pixels_only_trains_without_nan(loss: str) -> None:
    data = SegmentationData(Ignored(4, 32), SyntheticDataset(2, 32, split="val"), batch_size=2)
    task = trained(data, task={"loss": LOSSES[loss](), "weight_decay": 0.0})
    assert all(parameter.isfinite().all() for parameter in task.parameters())
    assert task.train_loss == 0.0
    assert task.trainer.callback_metrics["val/loss"].isfinite()


def test_an_image_without_a_pixel_that_counts_leaves_the_validation_loss_alone() -> None:
    class Half(SyntheticDataset):
        def __getitem__(self, key: int | SampleKey) -> Sample:
            return Ignored(2, 32, split="val")[0] if key == 1 else super().__getitem__(key)

    def loss(dataset: SyntheticDataset) -> float:
        data = SegmentationData(dataset, dataset, batch_size=2)
        return tiny_trainer().validate(tiny_task(), datamodule=data, verbose=False)[0]["val/loss"]

    assert loss(Half(2, 32, split="val")) == pytest.approx(loss(SyntheticDataset(1, 32, split="val")), abs=1e-6)


class Losses(pl.Callback):
    """Notes the loss of every batch."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.values.append(float(outputs["loss"]))


def test_the_training_loss_is_the_mean_over_the_images_of_the_epoch() -> None:
    losses = Losses()
    task = trained(tiny_data(train=12), losses, max_epochs=2)
    assert len(losses.values) == 6
    assert float(task.train_loss) == pytest.approx(np.mean(losses.values[3:]), rel=1e-6)
    assert float(task.trainer.callback_metrics["train/loss"]) == pytest.approx(float(task.train_loss))


def test_the_training_loss_is_there_when_the_validation_reports() -> None:
    seen: list[float] = []

    class Reports(pl.Callback):
        def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
            seen.append(float(pl_module.train_loss))

    losses = Losses()
    trained(None, losses, Reports())
    assert seen == pytest.approx([np.mean(losses.values)])


def test_a_mean_kept_as_sum_and_count_weighs_batches_by_their_images() -> None:
    mean = LossMean()
    for loss, images in ((1.0, 3), (5.0, 1)):
        mean.add(torch.tensor(loss), images)
    total, count = mean.state(torch.device("cpu")).tolist()
    assert (total, count, total / count) == (8.0, 4.0, 2.0)


def test_a_test_is_scored_like_a_validation() -> None:
    data = tiny_data()
    data.test = data.val
    task = tiny_task()
    tested = tiny_trainer(IoU(table=False)).test(task, datamodule=data, verbose=False)[0]
    checked = tiny_trainer(IoU(table=False)).validate(task, datamodule=data, verbose=False)[0]
    assert len(tested) == 9 + len(CLASS_NAMES)
    both = {key.partition("/")[2] for key in tested}
    np.testing.assert_allclose([tested[f"test/{key}"] for key in both], [checked[f"val/{key}"] for key in both])


def test_training_learns() -> None:
    torch.manual_seed(0)
    task = SemanticTask(tiny_model(), lr=1e-2, schedule_name="constant", warmup=0)
    dataset = SyntheticDataset(4, 32)
    losses = Losses()
    data = SegmentationData(dataset, dataset, batch_size=4)
    tiny_trainer(ApplyTuningPlan(), losses, max_epochs=15, limit_val_batches=0).fit(task, datamodule=data)
    assert losses.values[-1] < 0.6 * losses.values[0]


@pytest.mark.parametrize(
    ("head", "options", "outputs"),
    [
        ("ocr", {"channels": 16, "key_channels": 8}, 1),
        ("unet", {"decoder_channels": [16, 16, 8, 8, 8], "deep_supervision": True}, 4),
        ("unet", {"decoder_channels": [16, 16, 8, 8, 8]}, 0),
    ],
)
def test_auxiliary_losses_of_a_head_are_weighted(head: str, options: dict[str, Any], outputs: int) -> None:
    model = Segmenter("test_resnet.r160_in1k", head, 3, weights="none", head_options=options)
    task = SemanticTask(model.eval(), CrossEntropy(auxiliary_weight=0.3))
    images, masks = torch.randint(0, 256, (2, 3, 40, 56), dtype=torch.uint8), torch.randint(0, 3, (2, 40, 56))
    batch = {"image": images, "mask": masks}
    loss, auxiliary = task.losses(batch)
    logits, *others = model(model.normalize(images), auxiliary=True)
    assert torch.equal(logits, model(model.normalize(images)))
    assert len(others) == outputs
    assert loss == torch.nn.functional.cross_entropy(logits, masks)
    expected = sum(0.3 * torch.nn.functional.cross_entropy(scores, masks) for scores in others)
    assert float(auxiliary) == pytest.approx(float(expected))
    model.train()
    sum(task.losses(batch)).backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without == model.unused_parameters()
