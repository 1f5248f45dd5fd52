"""A plan in words."""

from typing import Any

import pytest
import torch

from finetune.tuning.describe import describe, describe_change
from finetune.tuning.parameter_info import ParameterInfo, parameter_infos
from finetune.tuning.plan import Plan, Rule
from finetune.tuning.timing import Timeline

LAYERS = [["backbone.stem"], ["backbone.low"], ["backbone.top"]]
SIZES = {"backbone.stem": 1_000, "backbone.low": 20_000, "backbone.top": 300_000, "head.0": 4_000_000, "head.1": 7}


@pytest.fixture(scope="module")
def places() -> dict[str, ParameterInfo]:
    return parameter_infos({name: torch.empty(size, 1, device="meta") for name, size in SIZES.items()}, LAYERS)


def lines(places: dict[str, ParameterInfo], epochs: int = 10, **options: Any) -> list[str]:
    return describe(Plan((Rule("backbone", **options), Rule("."))).assign(places), places, Timeline(epochs))


def test_each_rule_has_a_line_and_the_whole_has_one(places: dict[str, ParameterInfo]) -> None:
    assert lines(places, lr_scale=0.1) == [
        "tuning rule 'backbone': 321,000 parameters in 3 tensors, train at 0.1 x lr",
        "tuning rule '.': 4,000,007 parameters in 2 tensors, train at 1 x lr",
        "4.32M of 4.32M parameters train",
    ]


@pytest.mark.parametrize(
    ("options", "fate"),
    [
        ({"train": False}, "frozen"),
        ({"train": [["never", None]]}, "frozen"),
        ({"train": False, "norms": "adapt"}, "frozen but for the norms' statistics"),
        ({"train": [[2, None]]}, "train at 1 x lr from epoch 3 on"),
        ({"train": [[0, 0.3]]}, "train at 1 x lr until epoch 3"),
        ({"train": [[0, 2], [0.5, None]]}, "train at 1 x lr until epoch 2 and from epoch 6 on"),
        ({"layer_lr_decay": 0.5}, "train at 0.25 to 1 x lr"),
        ({"norms": "eval"}, "train at 1 x lr, norms keep their statistics"),
        (
            {"train": [[1, None]], "stagger": 4},
            "train at 1 x lr, one layer group after another, top down, from epoch 2 to 6",
        ),
        ({"train": [[2, 5]]}, "train at 1 x lr from epoch 3 to epoch 5"),
        ({"train": [["plateau", None]]}, "train at 1 x lr from the first plateau on"),
        (
            {"train": [["plateau", None]], "stagger": "plateau"},
            "train at 1 x lr, one layer group after another, top down, from the first plateau on, at each plateau",
        ),
    ],
)
def test_the_fate_of_a_rule_is_said_in_words(
    places: dict[str, ParameterInfo], options: dict[str, Any], fate: str
) -> None:
    assert lines(places, **options)[0] == f"tuning rule 'backbone': 321,000 parameters in 3 tensors, {fate}"


def test_phases_are_counted_through(places: dict[str, ParameterInfo]) -> None:
    assert lines(places, train=[[1, None]], stagger=4)[-1] == (
        "4.00M of 4.32M parameters train at first, 4.30M from epoch 2, 4.32M from epoch 4, 4.32M from epoch 6"
    )


def test_a_change_names_what_unfrozen_and_what_froze(places: dict[str, ParameterInfo]) -> None:
    assert describe_change({"head.0"}, {"head.0", "backbone.top", "backbone.low"}, places) == (
        "unfrozen backbone[2], backbone[1]; 4.32M of 4.32M parameters train"
    )
    assert describe_change({"head.0", "backbone.top"}, {"head.0"}, places) == (
        "froze backbone[2]; 4.00M of 4.32M parameters train"
    )
