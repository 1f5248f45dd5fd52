"""The preview of a plan, against values worked out by hand."""

from functools import partial

import pytest
import torch

from finetune.tuning.group_schedule import GroupLRSchedule
from finetune.tuning.groups import Group, parameter_groups
from finetune.tuning.parameter_info import ParameterInfo, parameter_infos
from finetune.tuning.plan import Assignment, Plan, Rule
from finetune.tuning.plan_preview import outline, planned_rates
from finetune.tuning.schedules import schedule
from finetune.tuning.timing import Timeline

EPOCHS, STEPS = 4, 2
TIMELINE = Timeline(EPOCHS)
Parts = tuple[list[Group], dict[str, ParameterInfo], dict[str, Assignment], GroupLRSchedule]


@pytest.fixture(scope="module")
def parts() -> Parts:
    """Build a plan that unfreezes the backbone at a tenth of the learning rate in epoch 1, with a linear schedule."""
    plan = Plan((Rule("backbone", train=[[1, None]], lr_scale=0.1, norms="adapt"), Rule("head")))
    infos = parameter_infos(
        {"backbone.weight": torch.zeros(3, 2), "head.weight": torch.zeros(2, 2), "head.bias": torch.zeros(2)}
    )
    assigned = plan.assign(infos)
    curves = GroupLRSchedule(plan, assigned.values(), partial(schedule, "linear", warmup=0), STEPS, EPOCHS * STEPS)
    return parameter_groups(infos, assigned, lr=0.8, weight_decay=0.5), infos, assigned, curves


def test_each_phase_lists_the_layer_groups_with_their_learning_rates(parts: Parts) -> None:
    first, second = outline(*parts, TIMELINE)
    assert (first.first, first.stop, second.first, second.stop) == (0, 1, 1, 4)
    assert (first.trained, second.trained) == (6, 12)
    assert first.trainable == {"head.weight", "head.bias"}
    backbone, head = first.rows
    assert (backbone.label, backbone.parameters, backbone.trains, backbone.norms) == ("backbone", 6, False, "adapt")
    assert (head.label, head.parameters, head.trains, head.weight_decay) == ("head", 6, True, 0.5)
    assert [head.start, head.peak, head.end] == pytest.approx([0.8, 0.8, 0.7])  # 0.8 * (1 - step / 8)
    assert [second.rows[0].start, second.rows[0].end] == pytest.approx([0.06, 0.01])


def test_planned_rates_are_nan_while_frozen_and_then_follow_the_schedule(parts: Parts) -> None:
    groups, _, assigned, curves = parts
    history = planned_rates(groups, assigned, curves, TIMELINE)
    assert history.names == ["backbone", "head"]
    assert history.boundaries == [1.0]
    assert history.epochs == [step / 2 for step in range(8)]
    head = [0.8 * (1 - step / 8) for step in range(8)]
    assert [row[1] for row in history.rates] == pytest.approx(head)
    nan = float("nan")
    assert [row[0] for row in history.rates] == pytest.approx(
        [nan, nan, *(0.1 * rate for rate in head[2:])], nan_ok=True
    )
