"""The record of learning rates."""

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
    places = parameter_infos(kernels)
    return parameter_groups(places, Plan((Rule("backbone"), Rule("head"))).assign(places), lr=0.1, weight_decay=0.1)


def test_groups_that_differ_only_in_decay_share_a_column() -> None:
    assert LRHistory(groups()).names == ["backbone", "head"]


def test_frozen_groups_have_no_rate() -> None:
    record = LRHistory(groups())
    record.add(0.5, [0.1, 0.1, 0.2], {"head.weight"})
    assert record.epochs == [0.5]
    assert math.isnan(record.rates[0][0])
    assert record.rates[0][1] == 0.2


def test_a_long_training_keeps_a_number_of_evenly_spaced_samples_that_a_picture_can_show() -> None:
    record = LRHistory(groups())
    for step in range(10 * LIMIT):
        record.add(float(step), [0.1, 0.1, 0.1], set())
    assert LIMIT / 2 <= len(record.epochs) <= LIMIT
    gaps = {b - a for a, b in zip(record.epochs[:-1], record.epochs[1:], strict=True)}
    assert gaps == {16.0}
    assert len(record.rates) == len(record.epochs)


def test_a_resumed_record_goes_on() -> None:
    record, other = LRHistory(groups()), LRHistory(groups())
    for step in range(1500):
        record.add(step, [0.1, 0.1, 0.1], set())
    other.load_state_dict(record.state_dict())
    record.add(2000, [0.1, 0.1, 0.1], set())
    other.add(2000, [0.1, 0.1, 0.1], set())
    assert other.epochs[-1] == record.epochs[-1]
    assert other.state_dict()["stride"] == record.state_dict()["stride"] == 2


def test_the_record_of_another_plan_is_left_aside() -> None:
    record = LRHistory(groups())
    record.load_state_dict({"epochs": [0.0], "rates": [[0.1]], "boundaries": [], "stride": 1, "count": 1})
    assert record.epochs == []
