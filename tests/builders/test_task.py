import pytest
import torch

from finetune.builders.data import training_data
from finetune.builders.dummy_step import noise_step
from finetune.builders.loss import build_class_weights, build_loss
from finetune.builders.task import task_without_weights
from finetune.config.compose import load_config
from finetune.data import class_weights
from tests.samples import MODEL, SYNTHETIC, decided


@pytest.mark.parametrize(
    "data", ["data=cityscapes", "data=auto", "data.ignore_index=[3,255]", "data.ignore_index='#ffffff'"]
)
def test_a_step_on_random_data_trains_however_the_data_names_its_ignored_pixels(data: str) -> None:
    config = load_config([*MODEL, "data=folder", data, "data.root=images", "output=run"], "train")
    task = task_without_weights(config, ["sky", "sea"])
    before = {name: parameter.clone() for name, parameter in task.model.head.named_parameters()}
    noise_step(config, task, (2, 3, 32, 32))()
    assert not any(torch.equal(parameter, before[name]) for name, parameter in task.model.head.named_parameters())


def test_every_setting_of_tuning_optimizer_and_schedule_reaches_the_task() -> None:
    overrides = ("optimizer=sgd", "optimizer.lr=0.3", "optimizer.weight_decay=0.07", "optimizer.options.momentum=0.8")
    overrides += ("schedule=poly", "schedule.warmup=7", "schedule.power=2.0", "schedule.min_lr_ratio=0.25")
    overrides += ("tuning=full", "tuning.unfreeze_at=1", "tuning.backbone_lr_scale=0.5", "tuning.warmup=3", "seed=11")
    overrides += ("tuning.restart_schedule=true", "tuning.phase_lr=[1.0,0.4]", "tuning.l1=0.01", "tuning.l2_sp=0.02")
    task = task_without_weights(decided([*SYNTHETIC, *overrides]), ["sky", "sea"])
    assert (task.optimizer_name, task.lr, task.optimizer_options["momentum"], task.seed) == ("sgd", 0.3, 0.8, 11)
    assert task.penalties == {"l1": 0.01, "l2_sp": 0.02}
    assert (task.plan.warmup, task.plan.restart_schedule, task.plan.phase_lr) == (3, True, (1.0, 0.4))
    curve = task.schedule(107)
    assert [curve(0), curve(6), curve(7), curve(57)] == pytest.approx([1 / 7, 1, 1, 0.25 + 0.75 * 0.5**2], rel=0.02)
    groups = {(group.assignment.rule.match, group.weight_decay): group.lr for group in task.groups}
    assert {key[1] for key in groups} == {0.0, 0.07}
    assert {key[0]: lr for key, lr in groups.items()} == {"backbone": 0.15, ".": 0.3}


@pytest.mark.parametrize("given", ["[1,20,3,4,5]", "inverse_sqrt", "none"])
def test_class_weights_reach_the_loss(given: str) -> None:
    config = load_config([*SYNTHETIC, f"loss.class_weights={given}"], "train")
    data = training_data(config)
    loss = build_loss(config["loss"], 255, build_class_weights(config["loss"], data))
    if given == "none":
        assert loss.class_weights is None
        return
    pixels = data.statistics["train"].pixels
    expected = torch.tensor([1.0, 20, 3, 4, 5]) if given.startswith("[") else class_weights(pixels, given)
    assert torch.equal(loss.class_weights, expected)
