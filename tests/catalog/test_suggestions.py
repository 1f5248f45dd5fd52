"""Which backbones are suggested."""

import itertools

import pytest

from finetune.catalog.backbones import entries
from finetune.catalog.suggestions import DEVICES, LONGEST, Device, Speed, choose, measured

TIME = Device(("step_ms",), 500)


def speed(name: str, top1: float, step_ms: float, gmacs: float = 1, megabytes: float = 1) -> Speed:
    return Speed(name, "in1k", 224, top1, gmacs, megabytes, step_ms / 4, step_ms)


#        accuracy
#  85 |                        too slow
#  80 |           best
#  78 |           .     slower
#  75 |     good
#  70 | fast    worse
#     '--100---200---300---400---900------ ms
SIX = [
    speed("worse", 70, 250),
    speed("slower", 78, 400),
    speed("fast", 70, 100),
    speed("best", 80, 300),
    speed("good", 75, 200),
    speed("too slow", 85, 900),
]


def test_only_affordable_backbones_that_nothing_faster_reaches_are_chosen_whatever_their_order() -> None:
    for rows in itertools.permutations(SIX):
        assert [row.name for row in choose(rows, TIME)] == ["fast", "good", "best"]


def test_the_most_accurate_remain_of_too_many() -> None:
    assert [row.name for row in choose(SIX, TIME, longest=2)] == ["good", "best"]
    assert choose([], TIME) == []


def test_one_of_equals_is_chosen_by_its_name() -> None:
    assert [row.name for row in choose([speed("b", 80, 100), speed("a", 80, 100)], TIME)] == ["a"]
    assert [row.name for row in choose([speed("slower", 80.01, 101), speed("faster", 80, 100)], TIME)] == ["faster"]


def test_a_backbone_that_saves_either_of_two_costs_is_chosen() -> None:
    both = Device(("gmacs", "megabytes"), 20)
    rows = [speed("accurate", 80, 1, 10, 100), speed("lean", 79, 1, 12, 50), speed("neither", 78, 1, 12, 100)]
    assert [row.name for row in choose(rows, both)] == ["lean", "accurate"]


@pytest.mark.parametrize("name", DEVICES)
def test_the_suggestions_for_a_device_are_few_sorted_and_complete(name: str) -> None:
    device = DEVICES[name]
    chosen = choose(measured(), device)
    assert 5 <= len(chosen) <= LONGEST
    assert sorted(chosen, key=lambda row: round(row.top1, 1)) == chosen
    for row in measured():
        better = [c for c in chosen if all(getattr(c, x) <= getattr(row, x) for x in device.costs)]
        assert (
            row in chosen
            or getattr(row, device.costs[0]) > device.limit
            or row.top1 < chosen[0].top1
            or any(round(c.top1, 1) >= round(row.top1, 1) for c in better)
        ), row.name


def test_every_measured_backbone_is_supported_and_has_the_weights_that_its_accuracy_is_of() -> None:
    catalog = {entry.name: entry for entry in entries()}
    assert 40 <= len(measured()) == len({row.name for row in measured()})
    for row in measured():
        entry = catalog[row.name]
        assert row.tag == entry.weights[0].tag, "backbone.name without a tag takes other weights"
        assert "unet" not in entry.without
        assert 0 < row.inference_ms < row.step_ms
        assert 50 < row.top1 < 100
