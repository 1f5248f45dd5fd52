"""The record of the learning rates of a training."""

import math

import torch

from finetune.tuning.groups import Group, parameter_groups
from finetune.tuning.lr_history import LIMIT, LRHistory
from finetune.tuning.parameter_info import parameter_infos
from finetune.tuning.plan import Plan, Rule


def groups() -> list[Group]:
    kernels = {
        "backbone.a.weight": torch.zeros(2, 2),
        "backbone.a.bias": torch.zeros(2),
        "head.weight": torch.zeros(2, 2),
    }
    infos = parameter_infos(kernels)
    return parameter_groups(infos, Plan((Rule("backbone"), Rule("head"))).assign(infos), lr=0.1, weight_decay=0.1)


def test_groups_that_differ_only_in_decay_share_a_column() -> None:
    assert LRHistory(groups()).names == ["backbone", "head"]


def test_frozen_groups_have_no_learning_rate() -> None:
    history = LRHistory(groups())
    history.add(0.5, [0.1, 0.1, 0.2], {"head.weight"})
    assert history.epochs == [0.5]
    assert math.isnan(history.rates[0][0])
    assert history.rates[0][1] == 0.2


def test_a_long_training_keeps_a_limited_number_of_evenly_spaced_samples() -> None:
    history = LRHistory(groups())
    for step in range(10 * LIMIT):
        history.add(float(step), [0.1, 0.1, 0.1], set())
    assert LIMIT / 2 <= len(history.epochs) <= LIMIT
    gaps = {b - a for a, b in zip(history.epochs[:-1], history.epochs[1:], strict=True)}
    assert gaps == {16.0}
    assert len(history.rates) == len(history.epochs)


def test_a_restored_record_continues() -> None:
    history, other = LRHistory(groups()), LRHistory(groups())
    for step in range(1500):
        history.add(step, [0.1, 0.1, 0.1], set())
    other.load_state_dict(history.state_dict())
    history.add(2000, [0.1, 0.1, 0.1], set())
    other.add(2000, [0.1, 0.1, 0.1], set())
    assert other.epochs[-1] == history.epochs[-1]
    assert other.state_dict()["stride"] == history.state_dict()["stride"] == 2


def test_the_record_of_another_plan_is_ignored() -> None:
    history = LRHistory(groups())
    history.load_state_dict({"epochs": [0.0], "rates": [[0.1]], "boundaries": [], "stride": 1, "count": 1})
    assert history.epochs == []
